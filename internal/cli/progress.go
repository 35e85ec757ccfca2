package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// How often progress is drawn: on a terminal as the eye likes it, elsewhere as a log does.
const (
	drawEvery = 200 * time.Millisecond
	lineEvery = 5 * time.Second
)

// meter shows the progress of one operation on stderr: a bar that is redrawn on a terminal, a line every few
// seconds elsewhere.
type meter struct {
	w        io.Writer
	terminal bool
	begin    time.Time
	latest   atomic.Pointer[dr.Progress] // nil until something was reported
	drawn    bool                        // the bar is on the screen; used by run only

	end  chan struct{}
	done sync.WaitGroup
}

// progress begins to show progress. The function that it returns is for those who make it; stop ends the
// showing, and must be called before anything else is printed. With --no-progress, --quiet or -o json the
// function is nil.
func (a *app) progress() (report dr.ProgressFunc, stop func()) {
	if a.noProgress || a.quiet || a.json() {
		return nil, func() {}
	}
	m := newMeter(a.stderr, terminal(a.stderr))
	return m.report, m.stop
}

func newMeter(w io.Writer, terminal bool) *meter {
	m := &meter{w: w, terminal: terminal, begin: time.Now(), end: make(chan struct{})}
	m.done.Go(m.run)
	return m
}

// report takes note of how far the operation is. It never waits.
func (m *meter) report(p dr.Progress) { m.latest.Store(&p) }

// stop ends the showing and removes the bar.
func (m *meter) stop() {
	close(m.end)
	m.done.Wait()
}

func (m *meter) run() {
	every := lineEvery
	if m.terminal {
		every = drawEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-m.end:
			if m.drawn {
				fmt.Fprint(m.w, "\r\x1b[K")
			}
			return
		case now := <-tick.C:
			m.draw(now.Sub(m.begin))
		}
	}
}

func (m *meter) draw(elapsed time.Duration) {
	p := m.latest.Load()
	switch {
	case p == nil:
	case m.terminal:
		fmt.Fprint(m.w, "\r\x1b[K"+bar(*p, elapsed))
		m.drawn = true
	default:
		fmt.Fprintln(m.w, line(*p, elapsed))
	}
}

// bar is what a terminal shows.
func bar(p dr.Progress, elapsed time.Duration) string {
	const width = 24
	if p.Total <= 0 {
		return line(p, elapsed)
	}
	full := int(float64(width) * min(1, float64(p.Done)/float64(p.Total)))
	return fmt.Sprintf("[%s%s] %s", strings.Repeat("#", full), strings.Repeat(".", width-full), line(p, elapsed))
}

// line says it in words: "reading orders-db: 42%, 4.2 GiB of 10.0 GiB, 512 MiB/s, 12s left".
func line(p dr.Progress, elapsed time.Duration) string {
	var parts []string
	if p.Total > 0 {
		parts = append(parts, fmt.Sprintf("%d%%", int(100*min(1, float64(p.Done)/float64(p.Total)))), fmt.Sprintf("%v of %v", p.Done, p.Total))
	} else {
		parts = append(parts, p.Done.String())
	}
	if rate := float64(p.Done) / elapsed.Seconds(); p.Done > 0 && elapsed > 0 {
		parts = append(parts, fmt.Sprintf("%v/s", dr.Bytes(rate)))
		if left := float64(p.Total - p.Done); left > 0 {
			parts = append(parts, fmt.Sprintf("%v left", time.Duration(left/rate*float64(time.Second)).Round(time.Second)))
		}
	}
	return p.Phase + ": " + strings.Join(parts, ", ")
}
