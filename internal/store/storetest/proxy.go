package storetest

import (
	"bytes"
	"context"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy is a line to a server that is cut, or falls silent, in the middle of requests, on order. On a line that does
// not speak HTTP requests have no kinds, and bytes are counted from its beginning.
type Proxy struct {
	Endpoint string

	target string
	dial   dialer
	done   chan struct{} // closed at the end of the test

	// mu guards what follows.
	mu      sync.Mutex
	cuts    []*Cut
	quality Quality
	silent  chan struct{} // closed when the line falls silent
}

// Quality is how a line carries what it carries. It takes nothing from its throughput.
type Quality struct {
	Delay  time.Duration // of each byte, in either direction: the answer to a request comes two delays later
	Jitter time.Duration // more than that, at most
	Loss   float64       // share of the pieces that are lost, and sent once more after a while; what is behind them waits
}

// resendAfter is when a sender notices, at the earliest, that something was lost at the end of what it has sent (the kernel's minimum).
const resendAfter = 200 * time.Millisecond

// due is when something comes that is sent now.
func (q Quality) due() time.Time {
	d := q.Delay
	if q.Jitter > 0 {
		d += rand.N(q.Jitter)
	}
	if q.Loss > 0 && rand.Float64() < q.Loss {
		d += resendAfter + 2*q.Delay
	}
	return time.Now().Add(d)
}

// Cut is an order to cut a line in the middle of a request.
type Cut struct {
	Kind   string // of the request: PUT, GET, LIST, HEAD or DELETE; empty is any
	Answer bool   // cut in the answer, not in the request
	After  int64  // once so many bytes of it have passed
	Times  int    // so many requests; 0 is one
	Stall  bool   // hold the line open, without moving a byte, instead of cutting it
	Do     func() // nil, or called before the line is cut: the request is in flight

	hit chan struct{}
}

// NewProxy starts a line to the server at an endpoint, which ends with the test.
func NewProxy(t testing.TB, endpoint string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var d net.Dialer
	return startProxy(t, l, endpoint, d.DialContext)
}

func startProxy(t testing.TB, l net.Listener, endpoint string, dial dialer) *Proxy {
	t.Helper()
	p := &Proxy{
		Endpoint: "http://" + l.Addr().String(), target: strings.TrimPrefix(endpoint, "http://"), dial: dial,
		done: make(chan struct{}), silent: make(chan struct{}),
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.connect(ctx, c) })
		}
	})
	t.Cleanup(func() {
		stop()
		close(p.done)
		_ = l.Close()
		wg.Wait()
	})
	return p
}

// Cut gives an order. The channel is closed when the last of its requests was cut off.
func (p *Proxy) Cut(c Cut) <-chan struct{} {
	c.Times, c.hit = max(c.Times, 1), make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = append(p.cuts, &c)
	return c.hit
}

// Order takes all orders back and has every request from now on end in this way.
func (p *Proxy) Order(c Cut) {
	p.Mend()
	c.Times = Always
	p.Cut(c)
}

// Always is for Times: until Mend.
const Always = math.MaxInt

// SetQuality says how connections that begin from now on carry what they carry.
func (p *Proxy) SetQuality(q Quality) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quality = q
}

// Delay is SetQuality of a line that is steady, and loses nothing.
func (p *Proxy) Delay(d time.Duration) { p.SetQuality(Quality{Delay: d}) }

// Silence leaves all connections half open: not a byte more comes through them, and nobody is told. New ones are accepted, and are
// as silent, until Mend.
func (p *Proxy) Silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !closed(p.silent) {
		close(p.silent)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Mend takes all orders back. What is cut or silent stays so.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = nil
	if closed(p.silent) {
		p.silent = make(chan struct{})
	}
}

// line is one connection. Requests on it follow each other: none begins before the answer to the last has come.
type line struct {
	p       *Proxy
	quality Quality
	silent  <-chan struct{}

	// mu guards kind and moved.
	mu    sync.Mutex
	kind  string
	moved [2]int64 // bytes of the request, and of its answer
}

func (p *Proxy) connect(ctx context.Context, c net.Conn) {
	defer c.Close()
	p.mu.Lock()
	l := &line{p: p, quality: p.quality, silent: p.silent}
	p.mu.Unlock()
	if closed(l.silent) {
		<-p.done
		return
	}
	s, err := p.dial(ctx, "tcp", p.target)
	if err != nil {
		return
	}
	defer s.Close()
	ended := make(chan struct{}, 2)
	var wg sync.WaitGroup
	wg.Go(func() { l.copy(s, c, false); ended <- struct{}{} })
	wg.Go(func() { l.copy(c, s, true); ended <- struct{}{} })
	select {
	case <-ended:
	case <-p.done:
	}
	_, _ = c.Close(), s.Close()
	wg.Wait()
}

// late passes bytes on when they have been on their way for long enough.
type late struct {
	net.Conn
	quality Quality
	queue   chan lateBytes
	done    <-chan struct{}
}

type lateBytes struct {
	b   []byte
	due time.Time
}

func (l *late) Write(b []byte) (int, error) {
	select {
	case l.queue <- lateBytes{bytes.Clone(b), l.quality.due()}:
		return len(b), nil
	case <-l.done:
		return 0, net.ErrClosed
	}
}

// run ends when the queue is closed and empty.
func (l *late) run() {
	for x := range l.queue {
		if d := time.Until(x.due); d > 0 {
			select {
			case <-time.After(d):
			case <-l.done:
			}
		}
		_, _ = l.Conn.Write(x.b)
	}
}

func (l *line) copy(to, src net.Conn, answer bool) {
	var dst io.Writer = to
	if l.quality != (Quality{}) {
		w := &late{Conn: to, quality: l.quality, queue: make(chan lateBytes, 1<<12), done: l.p.done}
		var wg sync.WaitGroup
		wg.Go(w.run)
		defer wg.Wait()
		defer close(w.queue)
		dst = w
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := src.Read(buf)
		if closed(l.silent) {
			<-l.p.done
			return
		}
		if n > 0 {
			if cut := l.pass(buf[:n], answer); cut != nil {
				_, _ = dst.Write(buf[:n/2]) // in its middle
				if cut.Do != nil {
					cut.Do()
				}
				l.p.spend(cut)
				if cut.Stall {
					<-l.p.done
				}
				return
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass counts bytes and returns the order that they fulfil.
func (l *line) pass(b []byte, answer bool) *Cut {
	l.mu.Lock()
	defer l.mu.Unlock()
	way := 0
	if answer {
		way = 1
	} else if kind := requestKind(b); kind != "" {
		l.kind, l.moved = kind, [2]int64{}
	}
	l.moved[way] += int64(len(b))
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	for _, c := range l.p.cuts {
		if c.Times > 0 && c.Answer == answer && (c.Kind == "" || c.Kind == l.kind) && l.moved[way] > c.After {
			c.Times--
			return c
		}
	}
	return nil
}

// spend notes that an order was carried out once.
func (p *Proxy) spend(c *Cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.Times == 0 {
		select {
		case <-c.hit:
		default:
			close(c.hit)
		}
	}
}

// requestKind returns what kind of request begins with b; empty where none does.
func requestKind(b []byte) string {
	first, _, _ := bytes.Cut(b, []byte("\r\n"))
	method, _, ok := bytes.Cut(first, []byte(" /"))
	if !ok || !bytes.HasSuffix(first, []byte(" HTTP/1.1")) {
		return ""
	}
	if string(method) == "GET" && bytes.Contains(first, []byte("list-type=2")) {
		return "LIST"
	}
	return string(method)
}
