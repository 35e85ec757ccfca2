package storetest_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// A server in a region is reached from another one, and not while the line is cut.
func TestRegion(t *testing.T) {
	t.Parallel()
	n := storetest.NewNet(t)
	here, there := n.Region(t, "here"), n.Region(t, "there")
	s3 := there.S3(t)
	ask := func(url string) error {
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		client := http.Client{Transport: &http.Transport{DialContext: here.Dial, DisableKeepAlives: true}}
		answer, err := client.Do(r)
		if err != nil {
			return err
		}
		return answer.Body.Close()
	}
	if err := ask(s3.Endpoint); err != nil {
		t.Errorf("from here: %v", err)
	}
	line := here.Proxy(t, s3.Endpoint)
	line.SetQuality(storetest.Quality{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.2})
	if err := ask(line.Endpoint); err != nil {
		t.Errorf("over a line: %v", err)
	}
	line.Silence()
	if err := ask(line.Endpoint); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("over a silent line: %v", err)
	}
	line.Mend()
	if err := ask(line.Endpoint); err != nil {
		t.Errorf("over the line that is mended: %v", err)
	}
	there.Cut(t)
	if err := ask(s3.Endpoint); err == nil {
		t.Error("the region that is cut off answers")
	}
	there.Mend(t)
	if err := ask(s3.Endpoint); err != nil {
		t.Errorf("after the cut: %v", err)
	}
	there.Bandwidth(t, "80mbit")
	if err := ask(s3.Endpoint); err != nil {
		t.Errorf("over the narrow line: %v", err)
	}
}
