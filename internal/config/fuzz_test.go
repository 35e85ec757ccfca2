package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Whatever the bytes: no panic, an error is Mistakes with places inside the file, and what is accepted is read
// back unchanged from what `config show` prints.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yml", "testdata/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("f", text)
		if err != nil {
			var all Mistakes
			if !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("the error is a %T: %v", err, err)
			}
			return
		}
		shown, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("f", shown)
		if err != nil {
			t.Fatalf("what is shown has mistakes: %v\n%s", err, shown)
		}
		if shownAgain, err := again.Marshal(); err != nil || !bytes.Equal(shown, shownAgain) {
			t.Fatalf("reading back changes it (%v):\n%s\n%s", err, shown, shownAgain)
		}
	})
}
