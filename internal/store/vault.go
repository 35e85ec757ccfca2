package store

import (
	"context"
	"errors"
	"time"
)

// Version is one of the states that a name has had, in a store that keeps them.
type Version struct {
	Name    string
	ID      string // what the store calls it
	Size    int64
	Written time.Time // by the store's clock, most often in whole seconds
	Latest  bool      // it is what a reader of the name gets, or does not get
	Deleted bool      // a mark that says that the name is gone: the states before it are still there
}

// Vault is what a store can do beside, that keeps what was replaced or deleted and removes nothing that is retained. Where it
// keeps nothing, a name has one version. Errors are as in Store.
type Vault interface {
	// Versions calls fn for all versions of names that begin with prefix and are greater than after: names ascend, and of
	// each name the newest version comes first. Of two of one second a deletion counts as the older one, where the store
	// does not say.
	Versions(ctx context.Context, prefix, after string, fn func(Version) error) error

	// GetVersion fills dst with a version's bytes from off on.
	GetVersion(ctx context.Context, v Version, off int64, dst []byte) error

	// Retain keeps a version from being removed before until. It never shortens what was promised.
	Retain(ctx context.Context, v Version, until time.Time) error

	// Retained returns until when a version is kept from being removed; zero: it is not.
	Retained(ctx context.Context, v Version) (time.Time, error)
}

// LockMode says who may end a retention early. The names are those of the S3 API.
type LockMode string

// The modes.
const (
	Governance LockMode = "GOVERNANCE" // whoever has the right to bypass it
	Compliance LockMode = "COMPLIANCE" // nobody, the owner of the account included
)

// Lock is how long each object is retained from its writing on. The zero value retains nothing.
type Lock struct {
	Mode LockMode
	For  time.Duration
}

// Unlocked tells whether an object is never retained: what Probe has left is of no use to anybody.
func Unlocked(name string) bool {
	return len(name) > len(probePrefix) && name[:len(probePrefix)] == probePrefix
}

// vaulted is what a store that is a Vault implements, and what is put around one.
type vaulted interface{ Vault() Vault }

// VaultOf returns what a store can do with versions; nil where it has none.
func VaultOf(s Store) Vault {
	if v, ok := s.(vaulted); ok {
		return v.Vault()
	}
	return nil
}

// VersionsOf returns the versions of one name, the newest first.
func VersionsOf(ctx context.Context, v Vault, name string) (all []Version, err error) {
	err = v.Versions(ctx, name, "", func(x Version) error {
		if x.Name != name {
			return errOtherName // names that go on behind it come later
		}
		all = append(all, x)
		return nil
	})
	if errors.Is(err, errOtherName) {
		err = nil
	}
	return all, err
}

var errOtherName = errors.New("another name")

// Whole returns all bytes of a version that has at most limit.
func Whole(ctx context.Context, vault Vault, v Version, limit int64) ([]byte, error) {
	if v.Size > limit {
		return nil, Damagedf("version %s of %s has %d bytes; at most %d are expected", v.ID, v.Name, v.Size, limit)
	}
	b := make([]byte, v.Size)
	return b, vault.GetVersion(ctx, v, 0, b)
}

// Vault implements vaulted.
func (r *retrying) Vault() Vault {
	if v := VaultOf(r.s); v != nil {
		return &retryingVault{r, v}
	}
	return nil
}

type retryingVault struct {
	r *retrying
	v Vault
}

// Versions begins again behind the last name of which everything was delivered.
func (r *retryingVault) Versions(ctx context.Context, prefix, after string, fn func(Version) error) error {
	var stop error
	done, current, given := after, "", 0 // of current so many versions were delivered
	err := r.r.do(ctx, func(a *attempts) error {
		skip, name := given, current
		err := r.v.Versions(ctx, prefix, done, func(v Version) error {
			if v.Name == name && skip > 0 {
				skip--
				return nil
			}
			*a = attempts{begin: time.Now()}
			if v.Name != current {
				if current != "" {
					done = current
				}
				current, given = v.Name, 0
			}
			given++
			stop = fn(v)
			return stop
		})
		if stop != nil {
			return nil
		}
		return err
	})
	if stop != nil {
		return stop
	}
	return err
}

func (r *retryingVault) GetVersion(ctx context.Context, v Version, off int64, dst []byte) error {
	return r.r.do(ctx, func(*attempts) error { return r.v.GetVersion(ctx, v, off, dst) })
}

func (r *retryingVault) Retain(ctx context.Context, v Version, until time.Time) error {
	return r.r.do(ctx, func(*attempts) error { return r.v.Retain(ctx, v, until) })
}

func (r *retryingVault) Retained(ctx context.Context, v Version) (until time.Time, err error) {
	err = r.r.do(ctx, func(*attempts) (err error) {
		until, err = r.v.Retained(ctx, v)
		return err
	})
	return until, err
}
