// Package repotest makes repositories for the tests of packages above.
package repotest

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Passphrase opens what Init makes.
const Passphrase = "correct horse battery staple"

// Init makes a repository in st, with a signer and a cache of its own where o has none. It is closed with the test.
func Init(t testing.TB, st store.Store, o repo.Options) *repo.Repository {
	t.Helper()
	to, err := seal.PassphraseRecipient("test", Passphrase, 1)
	if err != nil {
		t.Fatal(err)
	}
	if o.Signer == nil {
		if o.Signer, err = seal.NewSigner(); err != nil {
			t.Fatal(err)
		}
	}
	if o.CacheDir == "" {
		o.CacheDir = t.TempDir()
	}
	r, err := repo.Init(t.Context(), st, []seal.Recipient{to}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}
