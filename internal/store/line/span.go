package line

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// NoRange answers what no range of HTTP asks for: bytes from before the beginning, and none at all, which every object has that does not
// end before off. fail makes the store's error of a cause, and stat returns one. done: nothing is to be fetched.
func NoRange(off int64, n int, fail func(error) error, stat func() (store.Info, error)) (done bool, err error) {
	switch {
	case off < 0:
		return true, fail(fmt.Errorf("offset %d is negative", off))
	case n > 0:
		return false, nil
	}
	info, err := stat()
	if err == nil && off > info.Size {
		err = fail(TooShort(info.Size, off, 0))
	}
	return true, err
}
