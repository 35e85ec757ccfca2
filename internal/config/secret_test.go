package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	s := Secret{[]byte("hunter2")}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%10.3s"} {
		fmt.Fprintf(&out, verb+" ", s)
		fmt.Fprintf(&out, verb+" ", &s)
		fmt.Fprintf(&out, verb+" ", struct{ Passphrase Secret }{s})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("opened", "passphrase", s, "keys", struct{ S Secret }{s})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("opened", "passphrase", s, "keys", struct{ S Secret }{s})
	if err := json.NewEncoder(&out).Encode(map[string]any{"s": s, "p": &s}); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2"), "104 117", "aHVudGVyMg"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the secret was printed as %q:\n%s", form, out.String())
		}
	}
	if string(s.Reveal()) != "hunter2" || s.String() != hidden || s.GoString() != hidden {
		t.Error("Reveal, String or GoString is wrong")
	}
}

func TestConnectionHidesWhatCouldBeAPassword(t *testing.T) {
	for c, want := range map[Connection]string{
		"host=x user=y":       "host=x user=y",
		"host=x password=y":   hidden,
		"postgres://u:p@h/db": hidden,
		"postgres://u@h/db":   "postgres://u@h/db",
		"nonsense":            hidden,
		"host='":              hidden,
	} {
		if got := c.String(); got != want || c.LogValue().String() != want {
			t.Errorf("%q prints as %q, want %q", string(c), got, want)
		}
		if c.DSN() != string(c) {
			t.Errorf("the driver reads %q, want %q", c.DSN(), string(c))
		}
	}
}

func TestPassphrase(t *testing.T) {
	dir := t.TempDir()
	file := func(name, body string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(body), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("HOLDFAST_TEST_PASSPHRASE", "from the environment")
	for _, c := range []struct {
		name string
		keys Keys
		want string // the passphrase, or
		err  string // a part of the error
	}{
		{"plain", Keys{PassphraseFile: file("plain", "correct horse", 0o600)}, "correct horse", ""},
		{"one newline is left out", Keys{PassphraseFile: file("nl", "correct horse\n\n", 0o640)}, "correct horse\n", ""},
		{"of Windows too", Keys{PassphraseFile: file("crlf", "correct horse\r\n", 0o400)}, "correct horse", ""},
		{"empty", Keys{PassphraseFile: file("empty", " \n", 0o600)}, "", "it is empty"},
		{"readable by everybody", Keys{PassphraseFile: file("open", "x", 0o644)}, "", "mode 0644"},
		{"large", Keys{PassphraseFile: file("large", strings.Repeat("x", maxPassphrase+1), 0o600)}, "", "more than 64 KiB"},
		{"absent", Keys{PassphraseFile: filepath.Join(dir, "absent")}, "", "no such file"},
		{"a directory", Keys{PassphraseFile: dir}, "", "is a directory"},
		{"by variable", Keys{PassphraseEnvironment: "HOLDFAST_TEST_PASSPHRASE"}, "from the environment", ""},
		{"by a variable that is not set", Keys{PassphraseEnvironment: "HOLDFAST_TEST_NOTHING"}, "", "not set"},
		{"none", Keys{}, "", ErrNoPassphrase.Error()},
	} {
		got, err := c.keys.Passphrase()
		if string(got.Reveal()) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %q, %v; want %q, an error with %q", c.name, got.Reveal(), err, c.want, c.err)
		}
	}
}
