package repo

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// What a listing says of an extent's size may be out of date when it is read: another writer stores the same bytes again,
// compressed harder or less hard. A reader, which reuses its memory, gives the same bytes all the same, whatever size is said.
func TestReadExtentsOfEverySize(t *testing.T) {
	ctx := t.Context()
	st := storetest.NewMemory()
	r := newRepository(t, st)
	log := r.Log("orders-db")
	if err := log.Register(ctx, DefaultGroup); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
	start := uint64(0)
	lr, enc := log.Reader(), log.Encoder()
	for _, size := range []int{1, s2Block - 1, s2Block, s2Piece, s2Piece + 1, 3*s2Piece - 7, zstdBlock, zstdBlock + 1, 5, MaxExtent} {
		data := make([]byte, size)
		for i := range data { // compresses, but not to nothing
			data[i] = byte(rnd.IntN(3) * i)
		}
		for _, c := range []Compression{Fast, Small, Fast} {
			if err := enc.Put(ctx, 1, start, data, ExtentClock{Writer: time.Unix(1, 0)}, c); err != nil {
				t.Fatal(err)
			}
			listed, err := log.Extents(ctx, 1, start)
			if err != nil || len(listed) != 1 {
				t.Fatal(listed, err)
			}
			e := listed[0]
			said := []int64{e.Stored, 0, e.Stored - 1, e.Stored + 1, e.Stored / 2, 2 * e.Stored, -1, 1, 3 * MaxExtent}
			if size == MaxExtent {
				said = said[:3] // each takes its time
			}
			for _, stored := range said {
				e.Stored = stored
				got, clock, err := lr.Read(ctx, e)
				if err != nil || !bytes.Equal(got, data) || !clock.Writer.Equal(time.Unix(1, 0)) {
					t.Fatalf("%d bytes, which are said to be stored as %d and are so as %d: %d bytes, %v", size, stored, listed[0].Stored, len(got), err)
				}
				from, to := rnd.IntN(size), rnd.IntN(size+1)
				ranges := [][2]int{{0, size}}
				if stored == listed[0].Stored {
					ranges = append(ranges, [2]int{from, to}, [2]int{size - 1, size + 1})
				}
				for _, r := range ranges {
					at := r[0]
					var before, kept []byte
					err = lr.Each(ctx, e, start+uint64(r[0]), start+uint64(r[1]), func(piece []byte) error {
						if at+len(piece) > size || !bytes.Equal(piece, data[at:at+len(piece)]) || !bytes.Equal(before, kept) {
							return errors.New("other bytes")
						}
						at += len(piece)
						if before, kept = piece, nil; size < MaxExtent { // the last piece stays as it was while this one is read
							kept = bytes.Clone(piece)
						} else {
							before = nil
						}
						return nil
					})
					if want := min(max(r[0], r[1]), size); err != nil || at != want {
						t.Fatalf("%d bytes, %d to %d of them, which are said to be stored as %d: %d, %v", size, r[0], r[1], stored, at, err)
					}
				}
			}
		}
		start += MaxExtent
	}
}

// No piece of an extent that was changed in the store is handed on, whatever the listing says.
func TestReadDamagedExtent(t *testing.T) {
	ctx := t.Context()
	st := storetest.NewMemory()
	r := newRepository(t, st)
	log := r.Log("orders-db")
	if err := log.Register(ctx, DefaultGroup); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("log "), s2Piece)
	if err := log.Encoder().Put(ctx, 1, 0, data, ExtentClock{}, Fast); err != nil {
		t.Fatal(err)
	}
	listed, err := log.Extents(ctx, 1, 0)
	if err != nil || len(listed) != 1 {
		t.Fatal(listed, err)
	}
	lr := log.Reader()
	if _, _, err := lr.Read(ctx, listed[0]); err != nil {
		t.Fatal(err) // and what it holds is in the reader's memory
	}
	name := r.extentName("orders-db", 1, 0, uint64(len(data)))
	whole, err := st.Get(ctx, name, MaxExtent)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(whole)-20] ^= 1
	for what, b := range map[string][]byte{"a flipped bit": flipped, "its end is missing": whole[:len(whole)-1], "more": append(bytes.Clone(whole), 0)} {
		if err := st.Put(ctx, name, b); err != nil {
			t.Fatal(err)
		}
		for _, stored := range []int64{0, int64(len(b))} {
			e := listed[0]
			e.Stored = stored
			pieces := 0
			err := lr.Each(ctx, e, e.Start, e.End, func([]byte) error { pieces++; return nil })
			var damaged *seal.DamagedError
			if !errors.As(err, &damaged) || pieces > 0 {
				t.Errorf("%s, stored as %d: %d pieces, %v", what, stored, pieces, err)
			}
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := lr.Read(ended, listed[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}
