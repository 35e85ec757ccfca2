package storetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

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

	root, port string
	command    func() *exec.Cmd

	// mu guards cmd and ended. Not held while waiting.
	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
}

// startLimit bounds the wait for a server that is starting.
const startLimit = 30 * time.Second

// S3 starts a real S3 server with one empty bucket on a free port of the loopback interface. It ends with the
// test. The server is built from the module in tools/ on first use; where that fails the test fails.
func S3(t testing.TB) *S3Server {
	t.Helper()
	binary, err := buildVersitygw(t.Context())
	if err != nil {
		t.Fatalf("the S3 server for tests could not be built: %v", err)
	}
	s := newS3Server(t)
	// Attributes in files of their own: not every file system that holds temporary files has extended ones.
	s.command = func() *exec.Cmd {
		cmd := exec.Command(binary, "--port", "127.0.0.1:"+s.port, "--quiet", //nolint:gosec // our own build
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
	s := newS3Server(t)
	s.command = func() *exec.Cmd {
		cmd := exec.Command(binary, "server", "--quiet", "--address", "127.0.0.1:"+s.port, filepath.Join(s.root, "buckets")) //nolint:gosec // named by who runs the test
		cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+s.AccessKey, "MINIO_ROOT_PASSWORD="+s.SecretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off", "HOME="+s.root)
		return cmd
	}
	s.begin(t)
	return s
}

func newS3Server(t testing.TB) *S3Server {
	t.Helper()
	s := &S3Server{Bucket: "holdfast-test", AccessKey: "test-access", SecretKey: "test-secret-7f1b", root: t.TempDir()}
	s.Dir = filepath.Join(s.root, "buckets", s.Bucket)
	for _, dir := range []string{"buckets", "meta"} {
		if err := os.Mkdir(filepath.Join(s.root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if s.port, err = freePort(); err != nil {
		t.Fatal(err)
	}
	return s
}

// begin starts the server for the first time, and makes the bucket.
func (s *S3Server) begin(t testing.TB) {
	t.Helper()
	s.Endpoint = "http://127.0.0.1:" + s.port
	t.Cleanup(s.Kill)
	s.Start(t)
	client := awss3.New(awss3.Options{
		BaseEndpoint: &s.Endpoint, Region: "us-east-1", UsePathStyle: true, Credentials: s.Credentials(),
	})
	if _, err := client.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: &s.Bucket}); err != nil {
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

// Start starts the server again after a Kill, on the same port and files, and returns when it answers.
func (s *S3Server) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.root, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := s.command()
	cmd.Stdout, cmd.Stderr = log, log
	// It ends with us also when the test binary is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the S3 server: %v", err)
	}
	ended := make(chan struct{})
	go func() { // waited for in Kill
		_ = cmd.Wait()
		close(ended)
	}()
	s.mu.Lock()
	s.cmd, s.ended = cmd, ended
	s.mu.Unlock()
	if err := answering("127.0.0.1:"+s.port, ended); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("the S3 server does not answer: %v\n%s", err, text)
	}
}

// Kill ends the server with SIGKILL and returns when it is gone. It may be called from any goroutine.
func (s *S3Server) Kill() {
	s.mu.Lock()
	cmd, ended := s.cmd, s.ended
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill()
	<-ended
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // of a TCP listener
	return strconv.Itoa(port), l.Close()
}

// answering waits until something accepts connections at addr.
func answering(addr string, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ended:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
