package s3

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

// Style is where the bucket's name stands in a request.
type Style uint8

// The styles.
const (
	StyleAuto    Style = iota // path with an endpoint of one's own, virtual host on Amazon
	StylePath                 // https://endpoint/bucket/object
	StyleVirtual              // https://bucket.endpoint/object
)

// Options say where a bucket is. Bucket is required; what is empty is found as the AWS tools find it.
type Options struct {
	Bucket   string
	Prefix   string // stands before each object's name, with a slash between
	Region   string // with an endpoint, us-east-1 where nothing else says
	Endpoint string // http(s)://host[:port]; empty is Amazon's
	Style    Style
	Profile  string // of ~/.aws/config
	CAFile   string // PEM, the only certificates then believed

	StorageClass string
	SSE          string // AES256, aws:kms or aws:kms:dsse
	KMSKey       string // for aws:kms; empty is the account's own
	Lock         store.Lock

	Stall       time.Duration           // a request in which nothing moves for so long is given up; 30 s
	Credentials aws.CredentialsProvider // nil: as the AWS tools find them
}

// Open prepares a store and finds the credentials. It sends nothing to the bucket.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{bucket: o.Bucket, prefix: o.Prefix, opts: o, name: "s3://" + o.Bucket}
	if s.prefix = strings.Trim(s.prefix, "/"); s.prefix != "" {
		s.name += "/" + s.prefix
		s.prefix += "/"
	}
	if o.Stall <= 0 {
		s.opts.Stall = line.DefaultStall
	}
	s.transport = awshttp.NewBuildableClient().WithTransportOptions(line.Tune)
	cfg, err := s.loadConfig(ctx)
	if err != nil {
		return nil, err
	}
	if cfg.Region == "" && (o.Endpoint != "" || cfg.BaseEndpoint != nil) {
		cfg.Region = "us-east-1" // what servers other than Amazon's expect in a signature
	}
	if cfg.Region == "" {
		return nil, &dr.Failure{
			What: "open store " + s.name, Reason: "no region is configured",
			Next: "add ?region=… to the URL (for example region=eu-central-1), or set AWS_REGION",
		}
	}
	s.keys = &keys{from: cfg.Credentials}
	cfg.Credentials = s.keys
	if _, err := s.keys.Retrieve(ctx); err != nil {
		return nil, dr.Fail("open store "+s.name, err,
			"give credentials as for the AWS tools: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws")
	}
	s.client = s3.NewFromConfig(cfg, func(c *s3.Options) {
		if o.Endpoint != "" {
			c.BaseEndpoint = &o.Endpoint
		}
		c.UsePathStyle = o.Style == StylePath || o.Style == StyleAuto && c.BaseEndpoint != nil
		c.Retryer = aws.NopRetryer{} // store.Retry alone repeats
		c.Logger = logging.Nop{}     // what matters comes back as an error
		if c.BaseEndpoint != nil {
			s.name += " at " + *c.BaseEndpoint
		}
	})
	return s, nil
}

func (s *Store) loadConfig(ctx context.Context) (aws.Config, error) {
	o := s.opts
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(s.transport),
		// The newer default, a checksum in a trailer, is not understood by many servers.
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(o.Profile))
	}
	if o.Credentials != nil {
		load = append(load, config.WithCredentialsProvider(o.Credentials))
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return aws.Config{}, dr.Fail("open store "+s.name+": the file of its certificates", err, "correct ca-file")
		}
		load = append(load, config.WithCustomCABundle(bytes.NewReader(pem)))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return cfg, dr.Fail("open store "+s.name+": the configuration of the AWS tools", err,
			"correct ~/.aws/config, the profile's name, or the certificates in ca-file")
	}
	return cfg, nil
}

// keys hands out credentials and remembers the newest, so that no message ever shows them.
type keys struct {
	from aws.CredentialsProvider
	last atomic.Pointer[aws.Credentials]
}

// keysError is a failure to find credentials, as opposed to credentials that the store refuses.
type keysError struct{ err error }

func (e *keysError) Error() string { return fmt.Sprintf("find credentials: %v", e.err) }
func (e *keysError) Unwrap() error { return e.err }

// Retrieve implements aws.CredentialsProvider.
func (k *keys) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if k.from == nil {
		return aws.Credentials{}, &keysError{fmt.Errorf("none are configured")}
	}
	c, err := k.from.Retrieve(ctx)
	if err != nil {
		return c, &keysError{err}
	}
	k.last.Store(&c)
	return c, nil
}

// hide replaces the secret parts of the credentials in a text.
func (k *keys) hide(text string) string {
	c := k.last.Load()
	if c == nil {
		return text
	}
	return line.Hide(text, c.SecretAccessKey, c.SessionToken)
}
