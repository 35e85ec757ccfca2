package e2e

import (
	"cmp"
	"flag"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

var (
	regionKills = flag.Int("regions.kills", 0, "how often TestAcrossRegions loses a region in each mode")
	regionDelay = flag.Duration("regions.delay", 25*time.Millisecond, "how far the other region is away, one way")
)

// TestAcrossRegions has a site in another region, on an S3 server behind a line with a delay. It loses the server and the first
// site in a load, recovers from the other, and tells what was lost: with copies.sync of 2 and a synchronous agent nothing may be.
func TestAcrossRegions(t *testing.T) {
	if *regionKills == 0 {
		t.Skip("it measures: make regions")
	}
	chance := random(t)
	for _, mode := range []struct {
		name, copies string
		sync         bool
	}{{"asynchronous", "{sync: 1}", false}, {"synchronous", "{sync: 2}", true}} {
		t.Run(mode.name, func(t *testing.T) {
			var rpos, rtos []time.Duration
			gaps := 0
			for range *regionKills {
				s3, w := s3World(t)
				far := storetest.NewProxy(t, s3.Endpoint)
				far.Delay(*regionDelay)
				there := fmt.Sprintf("s3://%s/there?region=us-east-1&path-style=true&endpoint=%s", s3.Bucket, url.QueryEscape(far.Endpoint))
				w.configure(setup{other: there, copies: mode.copies})
				w.run("repo", "init")
				agent := w.agent()
				w.server.Exec("", ledgerTable)
				w.members(agent, 2)
				w.until("the first snapshot is there", func() bool { return w.statuses()["there"].Problem == "" })
				if mode.sync {
					w.synchronous()
				}
				l := startLedger(t, w.server, mode.name)
				pause(4*time.Second + time.Duration(chance.Int64N(int64(2*time.Second))))
				disaster := time.Now()
				w.server.Kill9()
				agent.kill9()
				l.wg.Wait()
				w.lose()
				began := time.Now()
				r, overtaken := w.recovered()
				if overtaken {
					gaps++
				}
				rtos = append(rtos, time.Since(began))
				missing := l.missing(t, r, time.Now())
				rpo := time.Duration(0)
				for _, at := range l.lost(missing) {
					rpo = max(rpo, disaster.Sub(at))
				}
				rpos = append(rpos, rpo)
				t.Logf("%d commits, %d lost, RPO %s, RTO %s: %v", len(l.commits), len(missing), rpo.Round(time.Millisecond), rtos[len(rtos)-1].Round(time.Millisecond), r.Phases)
				switch {
				case mode.sync && len(missing) > 0:
					t.Errorf("of %d commits %d are gone: %.1000q", len(l.commits), len(missing), missing)
				case len(l.commits) < 20:
					t.Errorf("only %d commits were acknowledged", len(l.commits))
				case rpo > 10*time.Second:
					t.Errorf("what was committed %s before is gone", rpo)
				}
				r.stop()
				r.remove()
				if err := os.RemoveAll(w.dir + "/cache"); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%s: in %d of %d recoveries parts of the log had overtaken others that never came", mode.name, gaps, len(rtos))
			for what, all := range map[string][]time.Duration{"RPO": rpos, "RTO": rtos} {
				slices.SortFunc(all, cmp.Compare)
				t.Logf("%s, %s, a region %s away, %d kills: median %s, 99th percentile %s, greatest %s", mode.name, what, 2**regionDelay, len(all),
					percentile(all, 50).Round(time.Millisecond), percentile(all, 99).Round(time.Millisecond), percentile(all, 100).Round(time.Millisecond))
			}
		})
	}
}

// recovered restores from the other region. What was on its way there when everything was killed may have come in part: overtaken.
func (w *world) recovered() (r *restored, overtaken bool) {
	w.t.Helper()
	r = w.restore("back", "--site", "there", "--start")
	return r, strings.Contains(strings.Join(r.Notes, "\n"), "cannot be used")
}

// percentile returns the least of sorted values that so many per cent of them do not exceed: of fewer than a hundred, the 99th is
// the greatest.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[max((len(sorted)*p+99)/100, 1)-1]
}
