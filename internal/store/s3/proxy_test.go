package s3_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// proxy is a line to a server that breaks on order.
type proxy struct {
	endpoint string

	// mu guards the orders. They count the bytes of one direction of a connection, those of before included.
	mu       sync.Mutex
	up, down *order
}

// order is what happens to a connection after n bytes of one direction.
type order struct {
	n  int64
	do func() // nil is nothing
	// afterwards the connection is closed, or, with stall, held open without moving a byte
	stall bool
}

func newProxy(t *testing.T, endpoint string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{endpoint: "http://" + l.Addr().String()}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.connect(c, strings.TrimPrefix(endpoint, "http://"), done) })
		}
	})
	t.Cleanup(func() {
		close(done)
		_ = l.Close()
		wg.Wait()
	})
	return p
}

func (p *proxy) set(up, down *order) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up, p.down = up, down
}

func (p *proxy) connect(c net.Conn, target string, done <-chan struct{}) {
	defer c.Close()
	s, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer s.Close()
	ended := make(chan struct{}, 2)
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(s, c, func() *order { return p.up }, done); ended <- struct{}{} })
	wg.Go(func() { p.copy(c, s, func() *order { return p.down }, done); ended <- struct{}{} })
	select {
	case <-ended:
	case <-done:
	}
	_, _ = c.Close(), s.Close()
	wg.Wait()
}

func (p *proxy) copy(dst io.Writer, src io.Reader, ordered func() *order, done <-chan struct{}) {
	buf := make([]byte, 8<<10)
	for moved := int64(0); ; {
		n, err := src.Read(buf)
		p.mu.Lock()
		o := ordered()
		p.mu.Unlock()
		moved += int64(n)
		if o != nil && moved > o.n {
			if o.do != nil {
				o.do()
			}
			if o.stall {
				<-done
			}
			return
		}
		if _, werr := dst.Write(buf[:n]); errors.Join(err, werr) != nil {
			return
		}
	}
}
