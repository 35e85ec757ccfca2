package s3_test

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	srv := storetest.S3(t)
	storetest.Conformance(t, func(t *testing.T) store.Store { return srv.Open(t, t.Name()) })
}

func TestConformanceRetried(t *testing.T) {
	srv := storetest.S3(t)
	storetest.Conformance(t, func(t *testing.T) store.Store {
		return store.Retry(srv.Open(t, t.Name()), store.Budget{})
	})
}
