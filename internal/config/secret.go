package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Secret is a passphrase. However it is printed, logged or encoded, it shows "(hidden)".
type Secret struct{ bytes []byte }

const hidden = "(hidden)"

// Reveal returns the secret itself. The slice belongs to s.
func (s Secret) Reveal() []byte { return s.bytes }

// String hides the secret.
func (s Secret) String() string { return hidden }

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return hidden }

// Format hides the secret from every verb, %x and %d too.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue hides the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the secret from JSON and its like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// ErrNoPassphrase is the cause of Passphrase's error where the configuration names no passphrase at all.
var ErrNoPassphrase = errors.New("no passphrase is configured")

// maxPassphrase bounds a passphrase file; what is longer is the wrong file.
const maxPassphrase = 64 << 10

// Passphrase reads the passphrase from the file or the variable that the configuration names. One newline at
// the end of the file does not belong to it. A file that everybody may read is refused.
func (k Keys) Passphrase() (Secret, error) {
	switch {
	case k.PassphraseFile != "":
		return readPassphrase(k.PassphraseFile)
	case k.PassphraseEnvironment != "":
		v := os.Getenv(k.PassphraseEnvironment)
		if v == "" {
			return Secret{}, &dr.Failure{
				What:   "read the passphrase from the environment variable " + k.PassphraseEnvironment,
				Reason: "it is not set, or empty",
				Next:   "set it for this process, or name a passphrase-file instead",
			}
		}
		return Secret{[]byte(v)}, nil
	}
	return Secret{}, ErrNoPassphrase
}

func readPassphrase(path string) (Secret, error) {
	what := "read the passphrase file " + path
	f, err := os.Open(path)
	if err != nil {
		return Secret{}, dr.Fail(what, err, "create it with mode 0600, owned by the user who runs holdfast")
	}
	defer f.Close() // it was only read
	info, err := f.Stat()
	if err != nil {
		return Secret{}, dr.Fail(what, err, "")
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o007 != 0 {
		return Secret{}, &dr.Failure{
			What:   what,
			Reason: fmt.Sprintf("every user of this machine may use it (mode %04o)", info.Mode().Perm()),
			Next:   "chmod 600 " + path,
		}
	}
	body, err := io.ReadAll(io.LimitReader(f, maxPassphrase+1))
	body = bytes.TrimSuffix(bytes.TrimSuffix(body, []byte("\n")), []byte("\r"))
	switch {
	case err != nil:
		return Secret{}, dr.Fail(what, err, "")
	case len(body) > maxPassphrase:
		return Secret{}, &dr.Failure{What: what, Reason: "it has more than 64 KiB, so it is another file", Next: "correct keys.passphrase-file"}
	case len(bytes.TrimSpace(body)) == 0:
		return Secret{}, &dr.Failure{What: what, Reason: "it is empty", Next: "write the repository's passphrase into it"}
	}
	return Secret{body}, nil
}
