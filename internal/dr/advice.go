package dr

import (
	"errors"
	"strings"
)

// Failure is an error made to be read by a person: what was attempted on which thing, why it failed, and the
// next step. Reason and Next may be empty. It prints on up to three lines.
type Failure struct {
	What   string // names the thing: `restore orders-db to 2026-03-02 14:05:00 UTC: the log has a gap`
	Reason string // the fact behind it, without advice
	Next   string // a step that is safe to follow, usually a command
	Err    error  // the cause, for errors.Is and errors.As; its text is not printed again
}

// Error returns the three lines; the second and third are indented by two spaces and labelled.
func (f *Failure) Error() string {
	var b strings.Builder
	b.WriteString(f.What)
	if f.Reason != "" {
		b.WriteString("\n  reason: " + f.Reason)
	}
	if f.Next != "" {
		b.WriteString("\n  next:   " + f.Next)
	}
	return b.String()
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// Fail returns a Failure: what failed on which thing, its cause, and the next step. The cause's text becomes
// the reason.
func Fail(what string, cause error, next string) error {
	f := &Failure{What: what, Next: next, Err: cause}
	if cause != nil {
		f.Reason = cause.Error()
	}
	return f
}

// advised attaches a next step to an error whose text already names the thing and the reason.
type advised struct {
	err  error
	next string
}

func (a *advised) Error() string { return a.err.Error() }
func (a *advised) Unwrap() error { return a.err }

// Advise returns err with a next step attached, which Advice finds. The advice must be safe to follow as it
// stands: it never tells anybody to delete what may be the last copy. A nil err stays nil.
func Advise(err error, next string) error {
	if err == nil {
		return nil
	}
	return &advised{err: err, next: next}
}

// Advice returns the outermost next step attached to err by Advise or Fail: the caller that knows most wins.
// It is empty where nobody attached one.
func Advice(err error) string {
	var f *Failure
	var a *advised
	for e := err; e != nil; e = errors.Unwrap(e) {
		if v, ok := e.(*advised); ok { //nolint:errorlint // each layer is looked at by itself, outermost first
			return v.next
		}
		if v, ok := e.(*Failure); ok && v.Next != "" { //nolint:errorlint // as above
			return v.Next
		}
	}
	// errors.Join and other trees: any advice is better than none.
	if errors.As(err, &a) {
		return a.next
	}
	if errors.As(err, &f) {
		return f.Next
	}
	return ""
}
