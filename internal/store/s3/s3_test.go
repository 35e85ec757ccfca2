package s3_test

import (
	"os"
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

// A second maker's server, which make test-minio builds: it takes minutes, so that nobody has to.
func TestConformanceMinio(t *testing.T) {
	binary := os.Getenv("HOLDFAST_TEST_MINIO")
	if binary == "" {
		t.Skip("HOLDFAST_TEST_MINIO names no binary: make test-minio builds one")
	}
	srv := storetest.Minio(t, binary)
	storetest.Conformance(t, func(t *testing.T) store.Store { return srv.Open(t, t.Name()) })
	t.Run("retried", func(t *testing.T) {
		storetest.Conformance(t, func(t *testing.T) store.Store { return store.Retry(srv.Open(t, t.Name()), store.Budget{}) })
	})
}
