package azblob

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

// Options say where a container is. Account and Container are required.
type Options struct {
	Account, Container string
	Prefix             string // stands before each object's name, with a slash between
	Endpoint           string // of the account's blobs; empty is https://ACCOUNT.blob.core.windows.net

	KeyFile string // has the account's key
	SASFile string // has a shared access signature; without either: see auth.go

	Tier string // Hot, Cool or Cold; empty is the account's

	Stall time.Duration // a request in which nothing moves for so long is given up; 30 s
}

// Open prepares a store and finds the credentials. It sends nothing to the container.
func Open(_ context.Context, o Options) (*Store, error) {
	s := &Store{opts: o, name: "azblob://" + o.Account + "/" + o.Container}
	if s.prefix = strings.Trim(o.Prefix, "/"); s.prefix != "" {
		s.name += "/" + s.prefix
		s.prefix += "/"
	}
	if o.Stall <= 0 {
		s.opts.Stall = line.DefaultStall
	}
	endpoint := "https://" + o.Account + ".blob.core.windows.net"
	if o.Endpoint != "" {
		endpoint = strings.TrimSuffix(o.Endpoint, "/")
		s.name += " at " + endpoint
	}
	if err := line.CheckEndpoint(endpoint); err != nil {
		return nil, dr.Fail("open store "+s.name, err, dr.Advice(err))
	}
	s.url = endpoint + "/" + o.Container
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // of net/http
	line.Tune(t)
	s.transport = &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var err error
	if s.keys, err = s.find(); err != nil {
		return nil, dr.Fail("open store "+s.name, err, credentialsHint)
	}
	if s.client, err = s.newClient(); err != nil {
		return nil, dr.Fail("open store "+s.name, err, credentialsHint)
	}
	return s, nil
}

func (s *Store) clientOptions() azcore.ClientOptions {
	return azcore.ClientOptions{
		Retry:     policy.RetryOptions{MaxRetries: -1}, // store.Retry alone repeats
		Transport: s.transport,
		Telemetry: policy.TelemetryOptions{Disabled: true},
	}
}

// newClient makes the client of the container. One is enough: it keeps the token, which some credentials get from a program or a
// service each time that they are asked.
func (s *Store) newClient() (*container.Client, error) {
	o := &container.ClientOptions{ClientOptions: s.clientOptions()}
	o.PerCallPolicies = []policy.Policy{startPolicy{}}
	switch {
	case s.keys.shared != nil:
		return container.NewClientWithSharedKeyCredential(s.url, s.keys.shared, o)
	case s.keys.sas != "":
		return container.NewClientWithNoCredential(s.url+"?"+s.keys.sas, o)
	}
	return container.NewClient(s.url, s.keys, o)
}

func (s *Store) tier() *blob.AccessTier {
	if s.opts.Tier == "" {
		return nil
	}
	t := blob.AccessTier(s.opts.Tier)
	return &t
}
