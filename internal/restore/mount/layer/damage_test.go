package layer

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// written is a journal of three batches, the second of which has two records.
func written(t *testing.T) *disk {
	t.Helper()
	d := newDisk(rand.New(rand.NewPCG(1, 1)))
	j, err := OpenJournal(d, MountID{1})
	if err != nil {
		t.Fatal(err)
	}
	for _, pages := range []map[int]uint64{{0: 1}, {1: 2, 2: 4}, {3: 8}} {
		if err := j.local(7, pages); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// What a journal says is of its own mount alone.
func TestJournalOfAnotherMount(t *testing.T) {
	t.Parallel()
	d := written(t)
	if _, err := OpenJournal(d, MountID{2}); err == nil {
		t.Error("what another mount has brought counts as here")
	}
	if j, err := OpenJournal(d, MountID{1}); err != nil || !slices.Equal(j.file(7).pages, []uint64{1, 2, 4, 8}) {
		t.Errorf("%v, %v", j.file(7).pages, err)
	}
}

// Only of the batch that was written last anything may be missing.
func TestJournalDamage(t *testing.T) {
	t.Parallel()
	const records = 5 // the head, and four
	for n := range records {
		d := written(t)
		f := d.files[journalName]
		f.now = slices.Clone(f.now)
		if len(f.now) != records*recordSize {
			t.Fatalf("%d bytes", len(f.now))
		}
		f.now[n*recordSize+13] ^= 1
		j, err := OpenJournal(d, MountID{1})
		if last := n == records-1; (err == nil) != last {
			t.Errorf("record %d is damaged: %v", n, err)
		} else if last && !slices.Equal(j.file(7).pages, []uint64{1, 2, 4}) {
			t.Errorf("%v", j.file(7).pages)
		}
	}
	// A batch of which the power has left the second half is no damage, and the next one follows upon what is left.
	d := written(t)
	f := d.files[journalName]
	f.now = slices.Clone(f.now[:4*recordSize])
	clear(f.now[2*recordSize : 3*recordSize])
	for range 2 {
		j, err := OpenJournal(d, MountID{1})
		if err != nil || j.file(7).pages[0] != 1 || len(j.file(7).pages) > 1 {
			t.Fatalf("%+v, %v", maps.Collect(maps.All(j.known)), err)
		}
		if err := j.local(8, map[int]uint64{0: 1}); err != nil {
			t.Fatal(err)
		}
	}
	// A record that nobody of this version writes is not passed over.
	d = written(t)
	j, err := OpenJournal(d, MountID{1})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.commit(record(nil, 9, 7, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(d, MountID{1}); err == nil {
		t.Error("a record of a kind that is unknown was passed over")
	}
}
