package azblob_test

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/azblob"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestBrokenLines(t *testing.T) {
	t.Parallel()
	srv := storetest.Azurite(t)
	storetest.BrokenLines(t, "http://"+srv.Addr(), func(t *testing.T, endpoint, prefix string, stall time.Duration) store.Store {
		o := srv.Options(prefix)
		o.Endpoint, o.Stall = endpoint+"/"+srv.Account, stall
		s, err := azblob.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
