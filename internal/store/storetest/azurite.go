package storetest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/holdfast-dr/holdfast/internal/store/azblob"
)

// AzureServer is a running Azurite, which keeps its blobs in memory: what it writes to files is not all there
// after a kill.
type AzureServer struct {
	Endpoint, Account, Container string
	Key                          string
	KeyFile                      string // has Key
	process
}

// Azurite starts Microsoft's emulator of Azure Blob Storage with one empty container on a free port of the loopback
// interface. It ends with the test. Where it is not installed, the test is skipped: scripts/setup.sh installs it.
func Azurite(t testing.TB) *AzureServer {
	t.Helper()
	script, err := azuriteScript()
	if err != nil {
		t.Skipf("no Azurite: %v; scripts/setup.sh tests installs it where there is npm", err)
	}
	s := &AzureServer{Account: "holdfasttest", Container: "replica", Key: "aG9sZGZhc3QtdGVzdC1rZXktN2YxYg=="}
	s.init(t, "emulator of Azure Blob Storage")
	s.Endpoint = "http://" + s.Addr() + "/" + s.Account
	s.command = func() *exec.Cmd {
		// It knows older versions of the protocol than the SDK speaks; what we use is in each of them.
		cmd := exec.Command("node", script, "--blobHost", "127.0.0.1", "--blobPort", s.port, "--inMemoryPersistence", //nolint:gosec // installed by our own script
			"--skipApiVersionCheck", "--disableTelemetry", "--silent")
		cmd.Env = append(os.Environ(), "AZURITE_ACCOUNTS="+s.Account+":"+s.Key)
		return cmd
	}
	s.Start(t)
	s.KeyFile = filepath.Join(s.root, "key")
	if err := os.WriteFile(s.KeyFile, []byte(s.Key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := blob.NewSharedKeyCredential(s.Account, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential(s.Endpoint+"/"+s.Container, key, nil)
	if err == nil {
		_, err = c.Create(t.Context(), nil)
	}
	if err != nil {
		t.Fatalf("create the test container: %v", err)
	}
	return s
}

// azuriteScript finds what scripts/setup.sh has installed.
func azuriteScript() (string, error) {
	tools, err := toolsDir()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(tools, "azurite", "package.json"))
	if err != nil {
		return "", err
	}
	var list struct {
		Dependencies struct{ Azurite string }
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return "", fmt.Errorf("tools/azurite/package.json: %w", err)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	if _, err := exec.LookPath("node"); err != nil {
		return "", err
	}
	script := filepath.Join(cache, "azurite-"+list.Dependencies.Azurite, "node_modules", "azurite", "dist", "src", "blob", "main.js")
	_, err = os.Stat(script)
	return script, err
}

// Options returns what opens a store below a prefix of the server's container.
func (s *AzureServer) Options(prefix string) azblob.Options {
	return azblob.Options{Account: s.Account, Container: s.Container, Prefix: prefix, Endpoint: s.Endpoint, KeyFile: s.KeyFile}
}

// Open opens a store below a prefix of the server's container.
func (s *AzureServer) Open(t testing.TB, prefix string) *azblob.Store {
	t.Helper()
	st, err := azblob.Open(t.Context(), s.Options(prefix))
	if err != nil {
		t.Fatal(err)
	}
	return st
}
