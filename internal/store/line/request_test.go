package line

import (
	"errors"
	"io"
	"testing"
	"time"
)

// After a request the caller may change the bytes that it lent: a transport that still holds the body, as
// net/http may after a request was cut off, gets no more of them.
func TestLentIsGivenBack(t *testing.T) {
	w := &Watch{stall: time.Hour, idle: time.NewTimer(time.Hour)}
	l := w.Lend([]byte("the caller's bytes"))
	p := make([]byte, 3)
	if n, err := io.ReadFull(l, p); err != nil || string(p[:n]) != "the" {
		t.Fatalf("while lent: got %q, %v", p[:n], err)
	}
	l.GiveBack()
	if n, err := l.Read(p); n != 0 || !errors.Is(err, errGivenBack) {
		t.Errorf("afterwards: read %d bytes, %v", n, err)
	}
	if _, err := l.Seek(0, io.SeekStart); !errors.Is(err, errGivenBack) {
		t.Errorf("afterwards: seek: %v", err)
	}
}
