package repo

import (
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// What opens the repository comes back from another replica when it was made by a holder of the keys, and only then.
func TestHealOfWhatOpens(t *testing.T) {
	t.Parallel()
	st, alien := storetest.NewMemory(), storetest.NewMemory()
	r := newRepository(t, st)
	there := storetest.NewMemory()
	if err := r.CopyKeys(t.Context(), there); err != nil {
		t.Fatal(err)
	}
	other := must(r.Beside(t.Context(), there, testOptions(t)))
	defer other.Close()
	e := must(r.currentEpoch(t.Context()))
	names := []string{markerName, epochName(r.id, e.Epoch)}
	for _, s := range must(r.Slots(t.Context())) {
		names = append(names, slotName(r.id, e.Generation, s.Who().ID()))
	}
	slices.Sort(names)
	whole := st.Clone()
	for _, name := range names {
		if err := st.Put(t.Context(), name, []byte("{rotten")); err != nil {
			t.Fatal(err)
		}
	}
	var found []string
	for _, p := range must(r.Check(t.Context(), CheckOptions{})).Problems {
		found = append(found, p.Object)
	}
	// While the epoch is damaged nobody knows which slots count.
	if want := []string{names[0], names[1]}; !slices.Equal(slices.Sorted(slices.Values(found)), want) {
		t.Errorf("found %q, want %q", found, want)
	}

	// Another's repository has other objects under these names.
	stranger := newRepository(t, alien)
	se := must(stranger.currentEpoch(t.Context()))
	for i, name := range []string{epochName(stranger.id, se.Epoch), markerName, slotName(stranger.id, se.Generation, must(stranger.Slots(t.Context()))[0].Who().ID())} {
		b := must(alien.Get(t.Context(), name, maxSmall))
		if err := alien.Put(t.Context(), names[i], b); err != nil {
			t.Fatal(err)
		}
	}
	if report := must(r.Heal(t.Context(), []*Repository{stranger}, names)); len(report.Healed) > 0 || len(report.Left) != len(names) {
		t.Errorf("from a stranger: %+v", report)
	}
	if report := must(r.Heal(t.Context(), []*Repository{other}, names)); len(report.Left) > 0 || !slices.Equal(report.Healed, names) {
		t.Errorf("from another replica: %+v", report)
	}
	for _, name := range names {
		if string(must(st.Get(t.Context(), name, maxSmall))) != string(must(whole.Get(t.Context(), name, maxSmall))) {
			t.Errorf("%s is another object than it was", name)
		}
	}
	if report := must(r.Check(t.Context(), CheckOptions{})); len(report.Problems) > 0 {
		t.Errorf("then %+v is wrong", report.Problems)
	}
}
