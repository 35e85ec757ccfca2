package line

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Fail makes the *store.Error of a method of the store that is named in. ctx is the caller's. sort finds the kind, and the
// short form, of what only that store knows.
func Fail(ctx context.Context, in, op, name string, err error, sort func(error) (store.Kind, error)) error {
	kind := store.Busy
	given, ok, cause := store.GivenKind(err)
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx) // whatever the transport made of it
	case ok:
		kind, err = given, cause
	case errors.Is(err, store.ErrNotExist), errors.Is(err, store.ErrExists):
		kind = store.Gone
	case errors.Is(err, ErrStalled):
	default:
		kind, err = sort(err)
	}
	return &store.Error{Op: op, Name: name, Store: in, Kind: kind, Err: err}
}

// Believe says what to do about a server whose certificate is not believed, where there is no option for it.
const Believe = "have this machine believe the server's certificate authority (SSL_CERT_FILE names a file of them), or correct the endpoint"

// Answer is a server's refusal: what of it a person needs, without an SDK's frame around it.
type Answer struct {
	Status        int
	Code, Message string // from the server, hence clipped
	RequestID     string
}

// What a server can write into our messages.
const (
	maxCode    = 80
	maxMessage = 300
)

// NewAnswer makes an Answer of what a server wrote, with secrets hidden by hide.
func NewAnswer(status int, code, message, requestID string, hide func(string) string) *Answer {
	if code == "" {
		code = http.StatusText(status)
	}
	return &Answer{status, clip(hide(code), maxCode), clip(hide(message), maxMessage), clip(hide(requestID), maxCode)}
}

func (a *Answer) Error() string {
	t := fmt.Sprintf("the server answered %d %s", a.Status, a.Code)
	if a.Message != "" && a.Message != a.Code {
		t += ": " + a.Message
	}
	if a.RequestID != "" {
		t += " (request " + a.RequestID + ")"
	}
	return t
}

// Clip bounds a text that we did not write, and makes it one line.
func Clip(text string) string { return clip(text, maxMessage) }

func clip(text string, n int) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > n {
		text = strings.ToValidUTF8(text[:n], "") + "…"
	}
	return text
}

// Sort finds the kind of an answer by its status alone.
func (a *Answer) Sort() (store.Kind, error) {
	switch {
	case a.Status == http.StatusInsufficientStorage:
		return store.Full, a
	case a.Status == http.StatusUnauthorized, a.Status == http.StatusForbidden:
		return store.Denied, a
	case a.Status == http.StatusNotFound:
		return store.Gone, fmt.Errorf("%w (%w)", store.ErrNotExist, a)
	case a.Status == http.StatusRequestTimeout, a.Status == http.StatusTooManyRequests:
		return store.Busy, a
	case a.Status == http.StatusNotImplemented, a.Status == http.StatusHTTPVersionNotSupported:
		return store.Other, a
	case a.Status >= 500:
		return store.Busy, a
	}
	return store.Other, a
}

// SortBroken sorts what happened to a request that got no whole answer. authority says what to do about a server
// whose certificate is not believed.
func SortBroken(err error, hide func(string) string, authority string) (store.Kind, error) {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the URL: the object is named already
	}
	var cert *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	short := errors.New(hide(err.Error()))
	switch {
	case errors.As(err, &cert), errors.As(err, &unknown):
		return store.Denied, dr.Advise(short, authority)
	case errors.Is(err, http.ErrSchemeMismatch):
		return store.Denied, dr.Advise(short, "the server speaks plain HTTP: write endpoint=http://… if that is intended")
	case IsNetwork(err), ue != nil:
		return store.Busy, short
	}
	return store.Other, short
}

// IsNetwork tells whether a connection failed.
func IsNetwork(err error) bool {
	var n net.Error
	return errors.As(err, &n) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}

// CutOff gives a body that ended early its kind.
func CutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return store.WithKind(store.Busy, errors.New("the answer was cut off"))
	}
	return err
}

// TooShort is the error of a range of n bytes from off on, in an object of fewer.
func TooShort(size, off int64, n int) error {
	return store.Damagedf("it ends at byte %d; %d bytes from %d on are expected", size, n, off)
}

// EndsBefore is TooShort where the server does not say how long the object is.
func EndsBefore(off int64, n int) error {
	return store.Damagedf("it ends before byte %d; %d bytes from there on are expected", off, n)
}

// Room returns memory for an object that the server says has size bytes; a negative size is one that it did not say.
func Room(size, most int64) ([]byte, error) {
	switch {
	case size < 0:
		return nil, store.Damagedf("the server does not say how long it is")
	case size > most:
		return nil, store.Damagedf("it has %s; at most %s are expected", dr.Bytes(size), dr.Bytes(most))
	}
	return make([]byte, size), nil
}

// Hide replaces secrets in a text: a proxy or server that puts our request's headers into its error text would
// otherwise publish them.
func Hide(text string, secrets ...string) string {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[hidden]")
		}
	}
	return text
}
