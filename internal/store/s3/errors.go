package s3

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
	"slices"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// answer is a server's refusal: what of it a person needs, without the SDK's frame around it.
type answer struct {
	status        int
	code, message string
	requestID     string
}

// maxMessage bounds what a server can write into our messages.
const maxMessage = 300

func (a *answer) Error() string {
	t := fmt.Sprintf("the server answered %d %s", a.status, a.code)
	if a.message != "" && a.message != a.code {
		t += ": " + a.message
	}
	if a.requestID != "" {
		t += " (request " + a.requestID + ")"
	}
	return t
}

// fail makes the *store.Error of a method. ctx is the caller's.
func (s *Store) fail(ctx context.Context, op, name string, err error) error {
	kind := store.Busy
	if ctx.Err() != nil {
		err = context.Cause(ctx) // whatever the transport made of it
	} else {
		kind, err = s.sort(err)
	}
	return &store.Error{Op: op, Name: name, Store: s.name, Kind: kind, Err: err}
}

// sort finds the kind of an error, and its short form.
func (s *Store) sort(err error) (store.Kind, error) {
	if kind, ok, cause := store.GivenKind(err); ok {
		return kind, cause
	}
	if errors.Is(err, store.ErrNotExist) || errors.Is(err, store.ErrExists) {
		return store.Gone, err
	}
	if errors.Is(err, errStalled) {
		return store.Busy, err
	}
	var resp *smithyhttp.ResponseError
	var api smithy.APIError
	if errors.As(err, &resp) && resp.HTTPStatusCode() >= 300 || errors.As(err, &api) {
		return s.sortAnswer(s.answer(err))
	}
	var ke *keysError
	if errors.As(err, &ke) {
		if isNetwork(ke.err) {
			return store.Busy, errors.New(s.keys.hide(ke.Error()))
		}
		return store.Denied, dr.Advise(errors.New(s.keys.hide(ke.Error())),
			"give credentials as for the AWS tools: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws")
	}
	return s.sortTransport(err)
}

func (s *Store) answer(err error) *answer {
	a := &answer{}
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) {
		a.status = resp.HTTPStatusCode()
		a.code = http.StatusText(a.status)
	}
	var id *awshttp.ResponseError
	if errors.As(err, &id) {
		a.requestID = clip(s.keys.hide(id.RequestID), 80)
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		a.code, a.message = clip(s.keys.hide(api.ErrorCode()), 80), clip(s.keys.hide(api.ErrorMessage()), maxMessage)
	}
	return a
}

func clip(text string, n int) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > n {
		text = strings.ToValidUTF8(text[:n], "") + "…"
	}
	return text
}

// Codes that say more than the status they come with. The names are those of the S3 API's list of error codes,
// and of Ceph and MinIO.
var (
	fullCodes = []string{
		"QuotaExceeded", "StorageFull", "InsufficientStorage", "InsufficientCapacity", "XMinioStorageFull",
		"XMinioAdminBucketQuotaExceeded",
	}
	busyCodes = []string{
		"SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "InternalError", "RequestTimeout",
		"Throttling", "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequests",
		// A body that was altered on its way: the bytes that we hold are still good.
		"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
		// Another writer of the same name was at work: the S3 API says to send the request again.
		"ConditionalRequestConflict", "OperationAborted",
	}
	regionCodes = []string{"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)

func (s *Store) sortAnswer(a *answer) (store.Kind, error) {
	switch {
	case slices.Contains(fullCodes, a.code), a.status == http.StatusInsufficientStorage:
		return store.Full, a
	case a.code == "NoSuchBucket":
		return store.Denied, dr.Advise(a, fmt.Sprintf("create the bucket %s, or correct its name, region and endpoint", s.bucket))
	case a.code == "RequestTimeTooSkewed":
		return store.Denied, dr.Advise(a, "set this machine's clock: the store refuses requests that are minutes off")
	case slices.Contains(busyCodes, a.code):
		return store.Busy, a
	case slices.Contains(regionCodes, a.code), a.status >= 300 && a.status < 400:
		return store.Denied, dr.Advise(a, "add the bucket's own region to its URL: ?region=…")
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return store.Denied, a
	case a.status == http.StatusNotFound:
		return store.Gone, fmt.Errorf("%w (%w)", store.ErrNotExist, a)
	case a.status == http.StatusRequestTimeout, a.status == http.StatusTooManyRequests:
		return store.Busy, a
	case a.status == http.StatusNotImplemented, a.status == http.StatusHTTPVersionNotSupported:
		return store.Other, a
	case a.status >= 500:
		return store.Busy, a
	}
	return store.Other, a
}

// sortTransport sorts what happened to a request that got no whole answer.
func (s *Store) sortTransport(err error) (store.Kind, error) {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the URL: the object is named already
	}
	var cert *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	short := errors.New(s.keys.hide(err.Error()))
	switch {
	case errors.As(err, &cert), errors.As(err, &authority):
		return store.Denied, dr.Advise(short, "name the file of the server's certificate authority: ?ca-file=/path/ca.pem")
	case errors.Is(err, http.ErrSchemeMismatch):
		return store.Denied, dr.Advise(short, "the server speaks plain HTTP: write endpoint=http://… if that is intended")
	case isNetwork(err), ue != nil:
		return store.Busy, short
	}
	return store.Other, short
}

func isNetwork(err error) bool {
	var n net.Error
	var send *smithyhttp.RequestSendError
	return errors.As(err, &n) || errors.As(err, &send) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}
