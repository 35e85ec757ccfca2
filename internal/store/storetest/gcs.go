package storetest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store/gcs"
)

// GCSServer is a running fake-gcs-server, which keeps its objects in memory, and a service that hands out tokens for
// it. It believes each of them: what Google says of wrong ones is in the tests of package gcs.
type GCSServer struct {
	Endpoint, Bucket string
	KeyFile          string // of a service account
	process
}

// GCSToken is what each request must have.
const GCSToken = "test-token-c81e"

// GCS starts an emulator of Google Cloud Storage with one empty bucket on a free port of the loopback interface. It
// ends with the test. It is built from the module in tools/fakegcs on first use; where that fails the test fails.
func GCS(t testing.TB) *GCSServer {
	t.Helper()
	binary, err := buildTool(t.Context(), fakeGCS)
	if err != nil {
		t.Fatalf("the emulator of Google Cloud Storage could not be built: %v", err)
	}
	s := &GCSServer{Bucket: "holdfast-test"}
	s.init(t, "emulator of Google Cloud Storage")
	s.Endpoint = "http://" + s.Addr()
	// In memory: as files, its objects cannot have all names.
	s.command = func() *exec.Cmd {
		return exec.Command(binary, "-scheme", "http", "-host", "127.0.0.1", "-port", s.port, "-backend", "memory", "-log-level", "error") //nolint:gosec // our own build
	}
	s.Start(t)
	r, err := http.Post(s.Endpoint+"/storage/v1/b", "application/json", bytes.NewReader([]byte(`{"name":"`+s.Bucket+`"}`))) //nolint:noctx // of this machine, and it ends with the test
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if text, _ := io.ReadAll(r.Body); r.StatusCode != http.StatusOK {
		t.Fatalf("create the test bucket: %s: %s", r.Status, text)
	}
	s.KeyFile = GCSKey(t, TokenService(t))
	return s
}

// TokenService answers as Google's: a token for an assertion that a service account has signed.
func TokenService(t testing.TB) (url string) {
	t.Helper()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || r.FormValue("assertion") == "" {
			http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, GCSToken)
	}))
	t.Cleanup(h.Close)
	return h.URL + "/token"
}

// accountKey is made once: it takes a while.
var accountKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// GCSKey writes the key of a service account whose tokens are handed out at a URL, and returns the file.
func GCSKey(t testing.TB, tokens string) string {
	t.Helper()
	key, err := accountKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "test", "private_key_id": "1", "client_id": "1",
		"client_email": "holdfast@test.iam.gserviceaccount.com", "token_uri": tokens,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Options returns what opens a store below a prefix of the server's bucket.
func (s *GCSServer) Options(prefix string) gcs.Options {
	return gcs.Options{Bucket: s.Bucket, Prefix: prefix, Endpoint: s.Endpoint, KeyFile: s.KeyFile}
}

// Open opens a store below a prefix of the server's bucket.
func (s *GCSServer) Open(t testing.TB, prefix string) *gcs.Store {
	t.Helper()
	st, err := gcs.Open(t.Context(), s.Options(prefix))
	if err != nil {
		t.Fatal(err)
	}
	return st
}
