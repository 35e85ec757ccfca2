package gcs_test

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/gcs"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestBrokenLines(t *testing.T) {
	t.Parallel()
	srv := storetest.GCS(t)
	storetest.BrokenLines(t, srv.Endpoint, func(t *testing.T, endpoint, prefix string, stall time.Duration) store.Store {
		o := srv.Options(prefix)
		o.Endpoint, o.Stall = endpoint, stall
		s, err := gcs.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
