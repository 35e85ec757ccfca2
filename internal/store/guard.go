package store

import "context"

// Settings are what a bucket's owner has decided, as far as it concerns what can be removed.
type Settings struct {
	Versioning       bool
	ObjectLock       bool
	DefaultRetention string   // what objects get that ask for none, such as "COMPLIANCE 30 days"; empty: none
	Expiring         []string // rules by which the provider removes what is current
	Noncurrent       bool     // a rule removes what was replaced or deleted, some time later
	Unknown          []string // what could not be asked, with the reason
}

// Rights are what credentials were seen to be allowed, that nobody needs who works with a repository.
type Rights struct {
	Excess  []string // such as "remove versions for good (s3:DeleteObjectVersion)"
	Lacking []string // what was tried and refused
	Unknown []string // what cannot be tried without changing something, or was not answered
}

// Guarded is a place that can tell who may remove what is in it.
type Guarded interface {
	Settings(ctx context.Context) (Settings, error)
	// Rights tries what should be refused, on objects below probe/ that it puts itself; some bytes of them may stay.
	Rights(ctx context.Context) (Rights, error)
}

// GuardedOf returns the place that s is, or that it is around; nil where that can tell nothing.
func GuardedOf(s Store) Guarded {
	for {
		if g, ok := s.(Guarded); ok {
			return g
		}
		u, ok := s.(interface{ Unwrap() Store })
		if !ok {
			return nil
		}
		s = u.Unwrap()
	}
}

// Unwrap returns the store whose calls are repeated.
func (r *retrying) Unwrap() Store { return r.s }

// Unwrap returns the store as it is now.
func (p *past) Unwrap() Store { return p.s }
