package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

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
	var a *line.Answer
	if errors.As(err, &a) {
		return s.sortAnswer(a)
	}
	var ke *keysError
	if errors.As(err, &ke) {
		if ke.busy() {
			return store.Busy, errors.New(s.keys.hide(ke.Error()))
		}
		return store.Denied, dr.Advise(errors.New(s.keys.hide(ke.Error())), credentialsHint)
	}
	return line.SortBroken(err, s.keys.hide, line.Believe)
}

// maxAnswer bounds what is read of a refusal.
const maxAnswer = 64 << 10

// refusal reads the answer to a request that was refused (Cloud Storage, JSON API, "Standard error response"; what
// refuses a download is text).
func (s *Store) refusal(r *http.Response) *line.Answer {
	text, _ := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	var body struct {
		Error struct {
			Message string `json:"message"`
			Errors  []struct {
				Reason string `json:"reason"`
			} `json:"errors"`
		} `json:"error"`
	}
	var code, message string
	switch err := json.Unmarshal(text, &body); {
	case err == nil:
		message = body.Error.Message
		if len(body.Error.Errors) > 0 {
			code = body.Error.Errors[0].Reason
		}
	case !strings.HasPrefix(strings.TrimSpace(string(text)), "<"): // a page is for browsers
		message = string(text)
	}
	return line.NewAnswer(r.StatusCode, code, message, r.Header.Get("X-Guploader-Uploadid"), s.keys.hide)
}

// Reasons that say more than the status they come with (JSON API, "HTTP status and error codes").
var busyReasons = []string{"rateLimitExceeded", "userRateLimitExceeded", "backendError", "internalError", "conflict"}

func (s *Store) sortAnswer(a *line.Answer) (store.Kind, error) {
	switch {
	case slices.Contains(busyReasons, a.Code), a.Status == http.StatusConflict:
		return store.Busy, a
	case strings.Contains(a.Message, "match calculated"):
		return store.Busy, a // a body that was altered on its way: the bytes that we hold are still good
	case a.Code == "quotaExceeded":
		return store.Full, a
	case a.Code == "retentionPolicyNotMet":
		return store.Denied, dr.Advise(a, "the bucket's retention policy or the object's lock keeps it; wait until it has passed")
	case a.Status >= 300 && a.Status < 400:
		return store.Denied, dr.Advise(a, "correct the endpoint: Cloud Storage does not redirect")
	}
	return a.Sort()
}

// noBucket is the error of a bucket that is not there. It is not ErrNotExist: "nothing is there" would be the most
// dangerous of wrong answers.
func (s *Store) noBucket(a *line.Answer) error {
	return store.WithKind(store.Denied, dr.Advise(a, fmt.Sprintf("create the bucket %s, or correct its name and endpoint", s.opts.Bucket)))
}

// listable is the error of a listing: only the bucket can be missing.
func (s *Store) listable(err error) error {
	var a *line.Answer
	if errors.As(err, &a) && a.Status == http.StatusNotFound {
		return s.noBucket(a)
	}
	return err
}
