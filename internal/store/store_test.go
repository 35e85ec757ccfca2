package store_test

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
)

func TestCheckName(t *testing.T) {
	long := strings.Repeat("x", 255)
	for name, ok := range map[string]bool{
		"a": true, ".a": true, "a.": true, "...": true, "a/b-c_d.0/9": true, long: true, long + "/" + long: true,
		strings.Repeat("a/", 255) + "aa": true,
		"":                               false, ".": false, "..": false, "a/.": false, "./a": false, "a/../b": false, "/": false, "/a": false,
		"a/": false, "a//b": false, "A": false, "a~": false, "a b": false, "a\x00b": false, "a\\b": false, "é": false,
		long + "x": false, strings.Repeat("a/", 256) + "a": false,
	} {
		if err := store.CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q): got %v, want allowed %t", name, err, ok)
		}
	}
}

func TestCheckPrefix(t *testing.T) {
	for prefix, ok := range map[string]bool{
		"": true, "a": true, "a/": true, "a/.": true, "..": true, "a/..": true, strings.Repeat("x", 255): true,
		"/": false, "a//": false, "../": false, "a/./": false, "A": false, strings.Repeat("x", 256): false,
		strings.Repeat("a/", 256): false,
	} {
		if err := store.CheckPrefix(prefix); (err == nil) != ok {
			t.Errorf("CheckPrefix(%q): got %v, want allowed %t", prefix, err, ok)
		}
	}
}

// A name that passes is a clean path inside of any directory, and each of its beginnings is a prefix.
func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"a/b", "../x", ".tmp~", "a//b", "data/ab/cd.ef", strings.Repeat("a/", 200)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		err := store.CheckName(name)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: an error of several lines: %q", name, err)
			}
			return
		}
		if got := path.Join("/root", name); got != "/root/"+name {
			t.Errorf("%q: leaves its directory, or is not clean: %q", name, got)
		}
		for i := range name {
			if err := store.CheckPrefix(name[:i]); err != nil {
				t.Errorf("%q: its beginning %q is refused: %v", name, name[:i], err)
			}
		}
	})
}

func TestErrorText(t *testing.T) {
	err := fmt.Errorf("write the pack: %w", &store.Error{
		Op: "put", Name: "data/x", Store: "/mnt/backup", Kind: store.Full, Err: errors.New("no space left"),
	})
	if want := "write the pack: put data/x in /mnt/backup: no space left"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if store.KindOf(err) != store.Full || store.KindOf(errors.New("x")) != store.Other {
		t.Error("KindOf does not find the kind")
	}
}
