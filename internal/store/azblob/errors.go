package azblob

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

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
	// Before the answer: an identity's refusal is one too.
	var ke *keysError
	if errors.As(err, &ke) {
		text := line.Clip(s.keys.hide(ke.Error()))
		if line.IsNetwork(ke.err) {
			return store.Busy, errors.New(text)
		}
		return store.Denied, dr.Advise(errors.New(text), credentialsHint)
	}
	var resp *azcore.ResponseError
	if errors.As(err, &resp) {
		return s.sortAnswer(s.answer(resp))
	}
	return line.SortBroken(err, s.keys.hide, line.Believe)
}

// code returns the code of a server's refusal, or "".
func code(err error) string {
	var resp *azcore.ResponseError
	if errors.As(err, &resp) {
		return resp.ErrorCode
	}
	return ""
}

// maxAnswer bounds what is read of a refusal.
const maxAnswer = 64 << 10

func (s *Store) answer(e *azcore.ResponseError) *line.Answer {
	var message, id string
	if r := e.RawResponse; r != nil {
		id = r.Header.Get("X-Ms-Request-Id")
		var body struct{ Message string }
		text, _ := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
		if xml.Unmarshal(text, &body) == nil {
			message, _, _ = strings.Cut(body.Message, "\n") // what follows is the request's ID and the time
		}
	}
	return line.NewAnswer(e.StatusCode, e.ErrorCode, message, id, s.keys.hide)
}

// Codes that say more than the status they come with (Blob service REST API, "Blob service error codes" and "Common
// REST API error codes").
var (
	busyCodes = []string{
		"ServerBusy", "OperationTimedOut", "InternalError", "IncompleteBody",
		"Md5Mismatch", // a body that was altered on its way: the bytes that we hold are still good
	}
	noContainerCodes = []string{"ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled", "ResourceNotFound"}
	keptCodes        = []string{"BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold", "LeaseIdMissing"}
)

func (s *Store) sortAnswer(a *line.Answer) (store.Kind, error) {
	switch {
	case slices.Contains(busyCodes, a.Code):
		return store.Busy, a
	case slices.Contains(noContainerCodes, a.Code):
		return store.Denied, dr.Advise(a, fmt.Sprintf("create the container %s, or correct the names of account and container", s.opts.Container))
	case slices.Contains(keptCodes, a.Code):
		return store.Denied, dr.Advise(a, "a policy, a hold or a lease on the blob keeps it; wait until it has passed")
	case a.Code == "BlobArchived":
		return store.Denied, dr.Advise(a, "the blob was moved to the archive tier: rehydrate it, and take the rule away that moved it")
	case a.Code == "AuthenticationFailed":
		return store.Denied, dr.Advise(a, "check the credentials, and that this machine's clock is right")
	case a.Status >= 300 && a.Status < 400:
		return store.Denied, dr.Advise(a, "correct the endpoint: Blob Storage does not redirect")
	case a.Status == http.StatusNotFound && a.Code != "BlobNotFound":
		return store.Other, a // somebody else's 404 does not mean that an object is gone
	}
	return a.Sort()
}
