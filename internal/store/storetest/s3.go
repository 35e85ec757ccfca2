package storetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/holdfast-dr/holdfast/internal/store/s3"
)

// S3Server is a running versitygw that keeps its objects in a temporary directory.
type S3Server struct {
	Endpoint, Bucket     string
	AccessKey, SecretKey string
	Dir                  string // the bucket's files

	process

	locked bool // with versioning and Object Lock
}

// S3 starts a real S3 server with one empty bucket on a free port of the loopback interface. It ends with the
// test. The server is built from the module in tools/ on first use; where that fails the test fails.
func S3(t testing.TB) *S3Server {
	t.Helper()
	return startS3(t, nil)
}

func startS3(t testing.TB, region *Region) *S3Server {
	t.Helper()
	binary, err := buildTool(t.Context(), versitygw)
	if err != nil {
		t.Fatalf("the S3 server for tests could not be built: %v", err)
	}
	s := newS3Server(t)
	s.region = region
	// Attributes in files of their own: not every file system that holds temporary files has extended ones.
	s.command = func() *exec.Cmd {
		cmd := exec.Command(binary, "--port", s.Addr(), "--quiet", //nolint:gosec // our own build
			"posix", "--sidecar", filepath.Join(s.root, "meta"), filepath.Join(s.root, "buckets"))
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
		return cmd
	}
	s.begin(t)
	return s
}

// Minio starts another maker's server in the same way, from the binary at a path: a second opinion on what S3 is.
func Minio(t testing.TB, binary string) *S3Server {
	t.Helper()
	s := newMinio(t, binary)
	s.begin(t)
	return s
}

func newMinio(t testing.TB, binary string) *S3Server {
	t.Helper()
	s := newS3Server(t)
	s.command = func() *exec.Cmd {
		cmd := exec.Command(binary, "server", "--quiet", "--address", s.Addr(), filepath.Join(s.root, "buckets")) //nolint:gosec // named by who runs the test
		cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+s.AccessKey, "MINIO_ROOT_PASSWORD="+s.SecretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off", "HOME="+s.root)
		return cmd
	}
	return s
}

func newS3Server(t testing.TB) *S3Server {
	t.Helper()
	s := &S3Server{Bucket: "holdfast-test", AccessKey: "test-access", SecretKey: "test-secret-7f1b"}
	s.init(t, "S3 server")
	s.Dir = filepath.Join(s.root, "buckets", s.Bucket)
	for _, dir := range []string{"buckets", "meta"} {
		if err := os.Mkdir(filepath.Join(s.root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// begin starts the server for the first time, and makes the bucket.
func (s *S3Server) begin(t testing.TB) {
	t.Helper()
	s.Endpoint = "http://" + s.Addr()
	s.Start(t)
	if _, err := s.Client("").CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: &s.Bucket, ObjectLockEnabledForBucket: &s.locked}); err != nil {
		t.Fatalf("create the test bucket: %v", err)
	}
}

// Credentials returns those of the server's one user.
func (s *S3Server) Credentials() aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, "")
}

// Options returns what opens a store below a prefix of the server's bucket.
func (s *S3Server) Options(prefix string) s3.Options {
	return s3.Options{Bucket: s.Bucket, Prefix: prefix, Region: "us-east-1", Endpoint: s.Endpoint, Credentials: s.Credentials()}
}

// Open opens a store below a prefix of the server's bucket.
func (s *S3Server) Open(t testing.TB, prefix string) *s3.Store {
	t.Helper()
	st, err := s3.Open(t.Context(), s.Options(prefix))
	if err != nil {
		t.Fatal(err)
	}
	return st
}
