package cli

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

func TestProgressLines(t *testing.T) {
	for _, c := range []struct {
		p       dr.Progress
		elapsed time.Duration
		want    string
	}{
		{dr.Progress{Phase: "reading a", Done: 5 << 30, Total: 20 << 30}, 10 * time.Second, "reading a: 25%, 5.0 GiB of 20.0 GiB, 512 MiB/s, 30s left"},
		{dr.Progress{Phase: "reading a", Done: 10, Total: 10}, time.Second, "reading a: 100%, 10 B of 10 B, 10 B/s"},
		{dr.Progress{Phase: "more than said", Done: 20, Total: 10}, time.Second, "more than said: 100%, 20 B of 10 B, 20 B/s"},
		{dr.Progress{Phase: "no end known", Done: 1024}, time.Second, "no end known: 1.0 KiB, 1.0 KiB/s"},
		{dr.Progress{Phase: "nothing yet", Total: 10}, time.Second, "nothing yet: 0%, 0 B of 10 B"},
		{dr.Progress{Phase: "at once", Done: 5, Total: 10}, 0, "at once: 50%, 5 B of 10 B"},
	} {
		if got := line(c.p, c.elapsed); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if got, want := bar(dr.Progress{Phase: "x", Done: 1, Total: 2}, 0), "[############............] x: 50%, 1 B of 2 B"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMeterDrawsWhereAPersonLooksAndPrintsLinesElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var screen, file bytes.Buffer
		a, b := newMeter(&screen, true), newMeter(&file, false)
		time.Sleep(lineEvery + time.Millisecond) // of the test's own clock: nobody waits
		if screen.Len()+file.Len() > 0 {
			t.Errorf("something is shown before anything was reported: %q, %q", screen.String(), file.String())
		}
		a.report(dr.Progress{Phase: "x", Done: 1, Total: 2})
		b.report(dr.Progress{Phase: "x", Done: 1, Total: 2})
		time.Sleep(2 * lineEvery)
		a.stop()
		b.stop()
		if n := bytes.Count(screen.Bytes(), []byte("[####")); n != int(2*lineEvery/drawEvery) {
			t.Errorf("the bar was drawn %d times in 10 s", n)
		}
		if !bytes.HasSuffix(screen.Bytes(), []byte("\r\x1b[K")) {
			t.Errorf("the bar is left on the screen: %q", screen.String())
		}
		if n := bytes.Count(file.Bytes(), []byte("x: 50%")); n != 2 || bytes.ContainsRune(file.Bytes(), '\x1b') {
			t.Errorf("%d lines in 10 s: %q", n, file.String())
		}
	})
}

func TestNobodyIsShownProgressWhoDoesNotWantIt(t *testing.T) {
	for _, a := range []*app{{noProgress: true}, {quiet: true}, {output: choice{value: "json"}}} {
		report, stop := a.progress()
		stop()
		if report != nil {
			t.Errorf("%+v gets progress", a)
		}
	}
}
