package repo

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestDiffTellsWhatChanged(t *testing.T) {
	r := newRepository(t, storetest.NewMemory())
	fs := files{}
	for i := range 3000 {
		fs[fmt.Sprintf("f/%06d", i)] = []byte(fmt.Sprint(i))
	}
	before, err := save(t.Context(), r, "s", fs)
	if err != nil {
		t.Fatal(err)
	}
	delete(fs, "f/000017")
	fs["f/000018"] = bytes.Repeat([]byte("x"), 100)
	fs["f/0017b"] = []byte("new")
	after, err := save(t.Context(), r, "s", fs)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = r.Reader().Diff(t.Context(), before, after, func(path string, old, now *Entry) error {
		got = append(got, fmt.Sprintf("%s %v %v", path, old != nil, now != nil))
		return nil
	})
	want := []string{"f/000017 true false", "f/000018 true true", "f/0017b false true"}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("Diff = %q, %v; want %q", got, err, want)
	}
	if after.Written.NewChunks > 12 {
		t.Errorf("three changed files of 3000 wrote %d new chunks", after.Written.NewChunks)
	}
	err = r.Reader().Diff(t.Context(), after, after, func(path string, _, _ *Entry) error { return fmt.Errorf("%s differs from itself", path) })
	if err != nil {
		t.Error(err)
	}
}
