package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Budget bounds what Retry spends on one call. A field that is zero has the default.
type Budget struct {
	Total time.Duration // no new try begins later than this after the first; 2 minutes
	Tries int           // tries in all, the first included; 10
	First time.Duration // upper end of the first wait, doubled each time; 200 ms
	Max   time.Duration // upper end of every wait; 15 s
}

func (b Budget) withDefaults() Budget {
	if b.Total <= 0 {
		b.Total = 2 * time.Minute
	}
	if b.Tries <= 0 {
		b.Tries = 10
	}
	if b.First <= 0 {
		b.First = 200 * time.Millisecond
	}
	if b.Max <= 0 {
		b.Max = 15 * time.Second
	}
	return b
}

// Retry returns s with every call that failed Busy repeated, after a random wait that doubles, until it is
// done, fails otherwise, has used up its budget, or ctx ends. The last cause survives in every case. It is the
// only place where calls to a store are repeated: the budget bounds the waiting, each try is bounded by s.
//
// A Create that failed Busy and then meets an object reads it and compares: equal bytes are our own earlier
// try, which had its effect after all. That is right as long as two creators never write equal bytes, and ours
// do not: each body holds a random salt or nonce of its own.
func Retry(s Store, b Budget) Store { return &retrying{s: s, b: b.withDefaults()} }

type retrying struct {
	s Store
	b Budget
}

// WithTries returns a context whose calls Retry tries so many times at most: of somebody who has another replica to ask.
func WithTries(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, triesKey{}, n)
}

type triesKey struct{}

// attempts is what was spent on a call so far.
type attempts struct {
	failed int // tries that ended Busy
	begin  time.Time
}

// do runs try until it is done. try may reset a when it got further.
func (r *retrying) do(ctx context.Context, try func(a *attempts) error) error {
	a, most := attempts{begin: time.Now()}, r.b.Tries
	if n, ok := ctx.Value(triesKey{}).(int); ok {
		most = min(most, n)
	}
	for {
		err := try(&a)
		if err == nil || KindOf(err) != Busy {
			return err
		}
		a.failed++
		if ctx.Err() != nil {
			return interrupted(ctx, err)
		}
		limit := min(r.b.Max, r.b.First<<min(a.failed-1, 20))
		wait := limit/2 + rand.N(limit/2+1)
		spent := time.Since(a.begin)
		if a.failed >= most || spent+wait > r.b.Total {
			return givenUp(err, a.failed, spent)
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
			return givenUp(err, a.failed, spent) // it would end while we wait: the cause says more than that
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return interrupted(ctx, err)
		}
	}
}

// givenUp adds to an error how often and how long it was tried.
func givenUp(err error, tries int, spent time.Duration) error {
	return recause(err, func(cause error) error {
		return fmt.Errorf("%w (tried %d times in %s)", cause, tries, spent.Round(time.Millisecond))
	})
}

// interrupted adds the context's end to the error that was being waited on.
func interrupted(ctx context.Context, err error) error {
	if errors.Is(err, context.Cause(ctx)) {
		return err
	}
	return recause(err, func(cause error) error {
		return fmt.Errorf("%w; before that: %w", context.Cause(ctx), cause)
	})
}

// recause changes the cause inside an *Error, so that its text still begins with operation and object.
func recause(err error, change func(error) error) error {
	var e *Error
	if !errors.As(err, &e) {
		return change(err)
	}
	c := *e
	c.Err = change(e.Err)
	return &c
}

func (r *retrying) Put(ctx context.Context, name string, body []byte) error {
	return r.do(ctx, func(*attempts) error { return r.s.Put(ctx, name, body) })
}

func (r *retrying) Create(ctx context.Context, name string, body []byte) error {
	met := false // an object, after a try that may have made it
	err := r.do(ctx, func(a *attempts) error {
		err := r.s.Create(ctx, name, body)
		met = a.failed > 0 && errors.Is(err, ErrExists)
		return err
	})
	if !met {
		return err
	}
	there, readErr := r.Get(ctx, name, int64(len(body)))
	switch {
	case readErr == nil && bytes.Equal(there, body):
		return nil
	case readErr == nil, errors.Is(readErr, ErrNotExist), KindOf(readErr) == Damaged: // another's, gone, longer
		return err
	}
	return recause(readErr, func(cause error) error {
		return fmt.Errorf("whether the object is our own is unknown: %w", cause)
	})
}

func (r *retrying) Get(ctx context.Context, name string, max int64) (body []byte, err error) {
	err = r.do(ctx, func(*attempts) error {
		body, err = r.s.Get(ctx, name, max)
		return err
	})
	return body, err
}

func (r *retrying) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	return r.do(ctx, func(*attempts) error { return r.s.GetRange(ctx, name, off, dst) })
}

func (r *retrying) Stat(ctx context.Context, name string) (info Info, err error) {
	err = r.do(ctx, func(*attempts) error {
		info, err = r.s.Stat(ctx, name)
		return err
	})
	return info, err
}

// List continues behind the last object that it delivered, with a new budget: a listing of many pages is many
// calls to the store.
func (r *retrying) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	var stop error // what fn returned: never repeated, whatever its kind
	err := r.do(ctx, func(a *attempts) error {
		err := r.s.List(ctx, prefix, after, func(i Info) error {
			*a = attempts{begin: time.Now()}
			after = i.Name
			stop = fn(i)
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

func (r *retrying) Delete(ctx context.Context, name string) error {
	return r.do(ctx, func(*attempts) error { return r.s.Delete(ctx, name) })
}

func (r *retrying) String() string { return r.s.String() }
func (r *retrying) Close() error   { return r.s.Close() }
