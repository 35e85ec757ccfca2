package workspace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Credentials reads what the configuration names for opening a repository.
func Credentials(k config.Keys) (seal.Credentials, error) {
	var c seal.Credentials
	p, err := k.Passphrase()
	switch {
	case err == nil:
		c.Passphrase = string(p.Reveal())
	case !errors.Is(err, config.ErrNoPassphrase):
		return c, err
	}
	for _, path := range k.IdentityFiles {
		ids, err := readIdentities(path)
		if err != nil {
			return c, err
		}
		c.Identities = append(c.Identities, ids...)
	}
	return c, nil
}

func readIdentities(path string) ([]age.Identity, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, dr.Fail("read the identity file "+path, err, "make one with age-keygen -o "+path+", or correct the path")
	}
	ids, err := seal.ParseIdentities(b)
	if err != nil {
		return nil, dr.Fail("read the identity file "+path, err, "give the file that age-keygen wrote, or an SSH private key")
	}
	return ids, nil
}

// longPassphrase is the length from which a passphrase is taken for a generated one, which needs no stretching:
// then a command starts in milliseconds instead of a second.
const longPassphrase = 32

// ownRecipients are the public halves of what the configuration names.
func ownRecipients(k config.Keys) ([]seal.Recipient, error) {
	var out []seal.Recipient
	p, err := k.Passphrase()
	switch {
	case err == nil:
		r, err := PassphraseRecipient("passphrase", p)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	case !errors.Is(err, config.ErrNoPassphrase):
		return nil, err
	}
	for _, path := range k.IdentityFiles {
		ids, err := readIdentities(path)
		if err != nil {
			return nil, err
		}
		for i, id := range ids {
			public, ok := publicOf(id)
			if !ok {
				continue // an SSH key: its public half is given with --recipient
			}
			r, err := seal.KeyRecipient(fmt.Sprintf("%s-%d", filepath.Base(path), i+1), public)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	return out, nil
}

func publicOf(id age.Identity) (string, bool) {
	switch id := id.(type) {
	case *age.X25519Identity:
		return id.Recipient().String(), true
	case *age.HybridIdentity:
		return id.Recipient().String(), true
	}
	return "", false
}

// PassphraseRecipient returns everybody who knows the passphrase as a recipient.
func PassphraseRecipient(name string, p config.Secret) (seal.Recipient, error) {
	work := 0
	if len(p.Reveal()) >= longPassphrase {
		work = 10
	}
	return seal.PassphraseRecipient(name, string(p.Reveal()), work)
}

// signerFile holds the private key with which this host signs what it makes.
const signerFile = "signing.key"

// Signer returns this host's signing key from the state directory, and makes one where there is none.
func Signer(state string) (*seal.Signer, error) {
	path := filepath.Join(state, signerFile)
	seed, err := os.ReadFile(path)
	if err == nil {
		s, err := seal.SignerFromSeed(seed)
		if err != nil {
			return nil, dr.Fail("read the signing key "+path, err, "move it away: the next run makes another one, and old signatures stay valid")
		}
		return s, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, dr.Fail("read the signing key "+path, err, "run holdfast as the user that owns "+state)
	}
	s, err := seal.NewSigner()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, dr.Fail("make the state directory "+state, err, "set agent.state to a directory that this user may write")
	}
	if err := createFile(path, s.Seed()); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return Signer(state) // another process was faster
		}
		return nil, dr.Fail("make the signing key "+path, err, "set agent.state to a directory that this user may write")
	}
	return s, nil
}

// createFile makes a file that did not exist: whole, durable and private, or not at all.
func createFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // the link, if it was made, stays
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
