package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"unicode"

	"github.com/pkg/sftp"

	"github.com/holdfast-dr/holdfast/internal/store"
)

func busy(format string, args ...any) error {
	return store.WithKind(store.Busy, fmt.Errorf(format, args...))
}

// fail makes the *store.Error of a method out of its cause. ctx is the caller's.
func (s *Store) fail(ctx context.Context, op, name string, err error) error {
	kind := store.Busy
	if ctx.Err() != nil {
		err = context.Cause(ctx) // whatever the connection made of it
	} else {
		kind = kindOf(err)
	}
	return &store.Error{Op: op, Name: name, Store: s.name, Kind: kind, Err: err}
}

func kindOf(err error) store.Kind {
	if kind, ok, _ := store.GivenKind(err); ok {
		return kind
	}
	var n net.Error
	switch {
	case errors.Is(err, store.ErrNotExist), errors.Is(err, store.ErrExists):
		return store.Gone
	case errors.Is(err, fs.ErrPermission):
		return store.Denied
	case errors.As(err, &n), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, errGivenUp), isStatus(err, sftp.ErrSSHFxNoConnection), isStatus(err, sftp.ErrSSHFxConnectionLost):
		return store.Busy
	}
	return store.Other
}

// isStatus tells whether a server's answer has one of the codes, or the library reports it itself.
func isStatus(err error, codes ...error) bool {
	var st *sftp.StatusError
	for _, c := range codes {
		if errors.Is(err, c) || errors.As(err, &st) && st.FxCode() == c { //nolint:errorlint // a code is compared
			return true
		}
	}
	return false
}

// failure tells the answer that can mean anything: the name is taken, the disk is full, a file is in the place of
// a directory. Servers differ in what they use it for.
func failure(err error) bool {
	return isStatus(err, sftp.ErrSSHFxFailure, sftp.ErrSSHFxBadMessage)
}

// unsupported tells that a server, or the file system behind it, has no such call.
func unsupported(err error) bool { return isStatus(err, sftp.ErrSSHFxOpUnsupported) }

// maxMessage bounds what a server can write into our messages.
const maxMessage = 300

// did adds to a server's refusal what was asked.
func did(what string, err error) error {
	var st *sftp.StatusError
	if errors.As(err, &st) {
		return fmt.Errorf("%s: %w", what, &answer{st})
	}
	return fmt.Errorf("%s: %w", what, err)
}

// answer prints a server's status without the library's frame, and without what a terminal would obey.
type answer struct{ st *sftp.StatusError }

func (a *answer) Error() string { return "the server answered " + clip(a.st.Error()) }
func (a *answer) Unwrap() error { return a.st }

func clip(text string) string {
	text = strings.TrimPrefix(text, "sftp: ")
	text = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)), " ")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}

// saysFull tells whether a server's own words are those of a full disk or a used-up quota.
func saysFull(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, "no space") || strings.Contains(text, "quota") || strings.Contains(text, "disk full")
}
