package azblob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// A managed identity, asked for as App Service offers it: over HTTP, at an address that the environment names.
func TestManagedIdentity(t *testing.T) {
	const token = "the-token-Qw7"
	var status int
	identity := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Query().Get("resource"); got != "https://storage.azure.com" {
			t.Errorf("a token for %q", got)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"expires_on":"%d","resource":"https://storage.azure.com","token_type":"Bearer"}`,
			token, time.Now().Add(time.Hour).Unix())
	}))
	defer identity.Close()
	blobs := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if got := r.Header.Get("Authorization"); got != "Bearer "+token {
			t.Errorf("authorization %q", got)
		}
		w.Header().Set("X-Ms-Error-Code", "AuthorizationPermissionMismatch")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "<Error><Message>echo "+r.Header.Get("Authorization")+"</Message></Error>")
	}))
	defer blobs.Close()
	for name, value := range map[string]string{
		"AZURE_STORAGE_KEY": "", "AZURE_STORAGE_SAS_TOKEN": "",
		"AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential", "IDENTITY_ENDPOINT": identity.URL, "IDENTITY_HEADER": "secret",
	} {
		t.Setenv(name, value)
	}
	open := func() *Store {
		s, err := Open(t.Context(), Options{Account: "account", Container: "container", Endpoint: blobs.URL})
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(blobs.Certificate())
		s.transport.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots} //nolint:forcetypeassert,gosec // made by Open
		t.Cleanup(func() { _ = s.Close() })
		return s
	}

	// In this order: a token that was got is kept for all of the process.
	status = http.StatusBadRequest
	err := open().Put(t.Context(), "x", []byte("b"))
	if store.KindOf(err) != store.Denied || !strings.Contains(dr.Advice(err), "managed identity") || strings.Contains(err.Error(), "\n") || len(err.Error()) > 700 {
		t.Errorf("no token: got %v (kind %d), advice %q", err, store.KindOf(err), dr.Advice(err))
	}
	status = http.StatusOK
	err = open().Put(t.Context(), "x", []byte("b"))
	if store.KindOf(err) != store.Denied || !strings.Contains(err.Error(), "echo Bearer [hidden]") {
		t.Errorf("refused: got %v (kind %d)", err, store.KindOf(err))
	}
}

// counted is a credential that asks somebody for each token, as az does.
type counted struct{ asked atomic.Int64 }

func (c *counted) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.asked.Add(1)
	return azcore.AccessToken{Token: "the-token", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// A tail lists behind a name each second: a token serves until it expires, whatever is asked for.
func TestOneTokenForAllRequests(t *testing.T) {
	var from []string
	blobs := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from = append(from, r.URL.Query().Get("startFrom"))
		_, _ = io.WriteString(w, `<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs></Blobs><NextMarker /></EnumerationResults>`)
	}))
	defer blobs.Close()
	t.Setenv("AZURE_STORAGE_KEY", "")
	t.Setenv("AZURE_STORAGE_SAS_TOKEN", "")
	s, err := Open(t.Context(), Options{Account: "account", Container: "container", Endpoint: blobs.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // nothing is written
	s.transport = blobs.Client()
	asks := &counted{}
	s.keys.from = asks
	if s.client, err = s.newClient(); err != nil {
		t.Fatal(err)
	}
	for _, after := range []string{"log/1", "", "log/2"} {
		if err := s.List(t.Context(), "log/", after, func(store.Info) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if n := asks.asked.Load(); n != 1 {
		t.Errorf("a token was asked for %d times", n)
	}
	if len(from) != 3 || from[0] == "" || from[1] != "" || from[2] == "" {
		t.Errorf("the listings begin at %q", from)
	}
}
