package s3

import (
	"context"
	"errors"
	"fmt"
	"slices"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

// fail makes the *store.Error of a method. ctx is the caller's.
func (s *Store) fail(ctx context.Context, op, name string, err error) error {
	return line.Fail(ctx, s.name, op, name, err, s.sort)
}

// sort finds the kind of an error, and its short form.
func (s *Store) sort(err error) (store.Kind, error) {
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
	return s.sortBroken(err)
}

func (s *Store) answer(err error) *line.Answer {
	var status int
	var code, message, requestID string
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) {
		status = resp.HTTPStatusCode()
	}
	var id *awshttp.ResponseError
	if errors.As(err, &id) {
		requestID = id.RequestID
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		code, message = api.ErrorCode(), api.ErrorMessage()
	}
	return line.NewAnswer(status, code, message, requestID, s.keys.hide)
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

func (s *Store) sortAnswer(a *line.Answer) (store.Kind, error) {
	switch {
	case slices.Contains(fullCodes, a.Code):
		return store.Full, a
	case a.Code == "NoSuchBucket":
		return store.Denied, dr.Advise(a, fmt.Sprintf("create the bucket %s, or correct its name, region and endpoint", s.bucket))
	case a.Code == "RequestTimeTooSkewed":
		return store.Denied, dr.Advise(a, "set this machine's clock: the store refuses requests that are minutes off")
	case slices.Contains(busyCodes, a.Code):
		return store.Busy, a
	case slices.Contains(regionCodes, a.Code), a.Status >= 300 && a.Status < 400:
		return store.Denied, dr.Advise(a, "add the bucket's own region to its URL: ?region=…")
	}
	return a.Sort()
}

// sortBroken sorts what happened to a request that got no whole answer.
func (s *Store) sortBroken(err error) (store.Kind, error) {
	kind, short := line.SortBroken(err, s.keys.hide, "name the file of the server's certificate authority: ?ca-file=/path/ca.pem")
	if kind == store.Other && isNetwork(err) {
		kind = store.Busy
	}
	return kind, short
}

func isNetwork(err error) bool {
	var send *smithyhttp.RequestSendError
	return line.IsNetwork(err) || errors.As(err, &send)
}
