package azblob

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync/atomic"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"

	"github.com/holdfast-dr/holdfast/internal/store/line"
)

const credentialsHint = "give credentials as for Azure's tools: AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, a client of Entra ID " +
	"(AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET), a managed identity, az login; or ?key-file=/path or ?sas-file=/path"

// keys are the credentials: of shared, sas and from one is there. They hide from messages what is secret of them.
type keys struct {
	shared *blob.SharedKeyCredential
	sas    string
	from   azcore.TokenCredential

	secrets []string
	last    atomic.Pointer[string] // the newest token
}

// find finds the credentials: in the files that the options name, then where the Azure CLI has its variables, and at
// last what azidentity finds, which asks nobody before the first request.
func (s *Store) find() (*keys, error) {
	key, err := secretFile(s.opts.KeyFile)
	if err != nil {
		return nil, err
	}
	sas, err := secretFile(s.opts.SASFile)
	if err != nil {
		return nil, err
	}
	// One key fits one account: with replicas in two, the variables are those of the account that they name.
	if named := os.Getenv("AZURE_STORAGE_ACCOUNT"); key == "" && sas == "" && (named == "" || named == s.opts.Account) {
		key = os.Getenv("AZURE_STORAGE_KEY")
		if key == "" {
			sas = os.Getenv("AZURE_STORAGE_SAS_TOKEN")
		}
	}
	switch {
	case key != "":
		shared, err := blob.NewSharedKeyCredential(s.opts.Account, key)
		if err != nil {
			return nil, errors.New("the account's key is not one: base64 is expected") // not err's own text
		}
		return &keys{shared: shared, secrets: []string{key}}, nil
	case sas != "":
		return sasKeys(sas)
	}
	o := s.clientOptions()
	o.Retry = policy.RetryOptions{} // an identity's service may be slow to start; the request's context ends it
	from, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: o})
	if err != nil {
		return nil, fmt.Errorf("find credentials: %w", err)
	}
	return &keys{from: from}, nil
}

func secretFile(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("%s is empty", name)
	}
	return secret, nil
}

func sasKeys(sas string) (*keys, error) {
	sas = strings.TrimPrefix(sas, "?")
	q, err := url.ParseQuery(sas)
	if err != nil || q.Get("sig") == "" {
		return nil, errors.New("the shared access signature is not one: parameters with sig= are expected")
	}
	return &keys{sas: sas, secrets: []string{sas, url.QueryEscape(q.Get("sig")), q.Get("sig")}}, nil
}

// keysError is a failure to get a token, as opposed to a token that the store refuses.
type keysError struct{ err error }

func (e *keysError) Error() string { return fmt.Sprintf("get a token: %v", e.err) }
func (e *keysError) Unwrap() error { return e.err }

// GetToken implements azcore.TokenCredential.
func (k *keys) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	t, err := k.from.GetToken(ctx, o)
	if err != nil {
		return t, &keysError{err}
	}
	k.last.Store(&t.Token)
	return t, nil
}

func (k *keys) hide(text string) string {
	text = line.Hide(text, k.secrets...)
	if t := k.last.Load(); t != nil {
		text = line.Hide(text, *t)
	}
	return text
}
