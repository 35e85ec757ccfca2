package storetest

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/store/s3"
)

// S3Locked is S3 for a bucket with versioning and Object Lock, and with users beside its owner, whose keys are their names, and their
// secrets SecretOf: what they may do, a bucket policy says.
func S3Locked(t testing.TB, users ...string) *S3Server {
	t.Helper()
	binary, err := buildTool(t.Context(), versitygw)
	if err != nil {
		t.Fatalf("the S3 server for tests could not be built: %v", err)
	}
	s := newS3Server(t)
	s.locked = true
	// With attributes in files of their own this server takes an object that is put over a delete marker for one (1.8.0).
	if err := unix.Setxattr(s.root, "user.holdfast-test", []byte("x"), 0); err != nil {
		t.Skipf("the file system of %s has no extended attributes, which a locked bucket of versitygw needs: set TMPDIR to one that has: %v", s.root, err)
	}
	type account struct {
		Access string `json:"access"`
		Secret string `json:"secret"`
		Role   string `json:"role"`
	}
	accounts := map[string]account{}
	for _, u := range users {
		accounts[u] = account{u, SecretOf(u), "user"}
	}
	text, err := json.Marshal(map[string]any{"accessAccounts": accounts})
	if err != nil {
		t.Fatal(err)
	}
	iam := filepath.Join(s.root, "iam")
	for _, dir := range []string{iam, filepath.Join(s.root, "versions")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(iam, "users.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	s.command = func() *exec.Cmd {
		cmd := exec.Command(binary, "--port", s.Addr(), "--quiet", "--iam-dir", iam, //nolint:gosec // our own build
			"posix", "--versioning-dir", filepath.Join(s.root, "versions"), filepath.Join(s.root, "buckets"))
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
		return cmd
	}
	s.begin(t)
	return s
}

// SecretOf returns the secret key of a user of S3Locked.
func SecretOf(user string) string { return "secret-of-" + user }

// MinioLocked is Minio for a bucket with versioning and Object Lock. It has no users but the owner.
func MinioLocked(t testing.TB, binary string) *S3Server {
	t.Helper()
	s := newMinio(t, binary)
	s.locked = true
	s.begin(t)
	return s
}

// KeysOf returns the credentials of a user of S3Locked, or of the owner where user is empty.
func (s *S3Server) KeysOf(user string) aws.CredentialsProvider {
	if user == "" {
		return s.Credentials()
	}
	return credentials.NewStaticCredentialsProvider(user, SecretOf(user), "")
}

// As returns the options of a store that a user of S3Locked opens.
func (s *S3Server) As(user, prefix string) s3.Options {
	o := s.Options(prefix)
	o.Credentials = s.KeysOf(user)
	return o
}

// Client returns a client of the server itself, as a user of S3Locked, or as the bucket's owner where user is empty.
func (s *S3Server) Client(user string) *awss3.Client {
	return awss3.New(awss3.Options{
		BaseEndpoint: &s.Endpoint, Region: "us-east-1", UsePathStyle: true, Credentials: s.KeysOf(user),
		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: s.dial, DisableKeepAlives: true}},
	})
}

// Documents returns what docs/credentials.md has in blocks of JSON, by their names: the policies of a reader, a writer and a pruner,
// and the lifecycle rule.
func Documents(t testing.TB) map[string]string {
	t.Helper()
	tools, err := toolsDir()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(tools), "docs", "credentials.md"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)```json (\\w+)\n(.*?)\n```").FindAllStringSubmatch(string(text), -1) {
		out[m[1]] = m[2]
	}
	return out
}

// Allow gives users who are called so what the policies of a reader, a writer and a pruner say, below a prefix, and takes everything
// else away.
func (s *S3Server) Allow(t testing.TB, prefix string, users ...string) {
	t.Helper()
	var all struct{ Version, Statement any }
	var statements []any
	for _, user := range users {
		var p struct {
			Version   string
			Statement []map[string]any
		}
		if err := json.Unmarshal([]byte(Documents(t)[user]), &p); err != nil {
			t.Fatalf("the policy of a %s: %v", user, err)
		}
		for _, one := range p.Statement {
			one["Sid"] = user + one["Sid"].(string) //nolint:forcetypeassert // of our own document
			one["Principal"] = map[string]string{"AWS": user}
			statements = append(statements, one)
		}
		all.Version, all.Statement = p.Version, statements
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	body := strings.NewReplacer("BUCKET", s.Bucket, "PREFIX", prefix).Replace(string(text))
	if _, err := s.Client("").PutBucketPolicy(t.Context(), &awss3.PutBucketPolicyInput{Bucket: &s.Bucket, Policy: &body}); err != nil {
		t.Fatal(err)
	}
}
