package store

import (
	"errors"
	"fmt"
)

// kinded gives a cause a kind that it does not have by itself.
type kinded struct {
	kind Kind
	err  error
}

func (k *kinded) Error() string { return k.err.Error() }
func (k *kinded) Unwrap() error { return k.err }

// WithKind returns err with the kind that its *Error is to have, where that is known as it arises.
func WithKind(kind Kind, err error) error { return &kinded{kind, err} }

// Damagedf is fmt.Errorf of an error whose kind is Damaged.
func Damagedf(format string, args ...any) error {
	return WithKind(Damaged, fmt.Errorf(format, args...))
}

// GivenKind returns the kind that WithKind has given, and to what; false where it has not.
func GivenKind(err error) (kind Kind, ok bool, cause error) {
	var k *kinded
	if !errors.As(err, &k) {
		return Other, false, nil
	}
	return k.kind, true, k.err
}
