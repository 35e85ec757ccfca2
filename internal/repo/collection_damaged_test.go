package repo

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// Where the newest object of the collections is damaged, the error names it and says what to do.
func TestDamagedCollectionSaysWhatToDo(t *testing.T) {
	r := &Repository{store: storetest.NewMemory()}
	for _, c := range []struct {
		v    view
		err  error
		want string
	}{
		{view{highest: 3, done: 3}, errors.New("too short"), "collections/00000003.done"},
		{view{highest: 4, done: 3}, errors.New("too short"), "collections/00000004"},
		{view{highest: 4, done: 3}, &seal.DamagedError{Name: "collections/00000003.done", Reason: "x"}, "collections/00000003.done"},
	} {
		err := r.collectionDamaged(&c.v, c.err)
		var f *dr.Failure
		if !errors.As(err, &f) || !errors.Is(err, c.err) {
			t.Fatalf("not a failure of %v: %v", c.err, err)
		}
		if !strings.HasSuffix(f.What, "object "+c.want+" is damaged") || !strings.HasPrefix(f.Next, "copy "+c.want+" from another replica") {
			t.Errorf("want it about %s:\n%v", c.want, err)
		}
	}
}
