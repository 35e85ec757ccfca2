package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/scrub"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

const (
	// scrubRetry is before the second try to read a replica; it doubles up to scrubPatience.
	scrubRetry    = time.Minute
	scrubPatience = time.Hour
	// scrubGrace is how long a replica may refuse to be read before the system counts as ill.
	scrubGrace = 24 * time.Hour
)

// ScrubStatus is how the reading of a replica's bytes stands.
type ScrubStatus struct {
	Site string `json:"site"`
	scrub.Statement
}

// scrubber reads one replica of a repository over and over, for all systems in it.
type scrubber struct {
	ws         func() *workspace.Workspace // one of its own, at the site
	repository string
	site       string
	busy       func() bool // something else comes first
	log        *slog.Logger

	mu     sync.Mutex // guards status
	scrub  *scrub.Scrub
	status ScrubStatus // while scrub is nil
}

// addScrubbers adds those of a system's replicas that are to be read, unless another system has brought them.
func (a *agent) addScrubbers(s config.System) {
	for _, rep := range a.config.CopiesOf(s) {
		if rep.Scrub.Budget.Off() || a.scrubberOf(s.Repository, rep.Site) != nil {
			continue
		}
		log := a.log.With(dr.KeyRepository, s.Repository, "site", rep.Site)
		a.scrubbers = append(a.scrubbers, &scrubber{
			repository: s.Repository, site: rep.Site, busy: a.busy, log: log,
			ws: func() *workspace.Workspace {
				w := workspace.New(a.config, log)
				w.Site, w.Meter = rep.Site, new(meter.Meter)
				return w
			},
			status: ScrubStatus{Site: rep.Site, Statement: scrub.Statement{Pace: rep.Scrub.Budget.String(), Window: rep.Scrub.Window}},
		})
	}
}

func (a *agent) scrubberOf(repository, site string) *scrubber {
	for _, s := range a.scrubbers {
		if s.repository == repository && s.site == site {
			return s
		}
	}
	return nil
}

// scrubs returns how the replicas stand that hold a system's data.
func (a *agent) scrubs(s config.System) (out []ScrubStatus) {
	for _, rep := range a.config.CopiesOf(s) {
		if x := a.scrubberOf(s.Repository, rep.Site); x != nil {
			out = append(out, x.read())
		}
	}
	return out
}

// busy tells whether a task of any system runs: reading what nobody waits for comes after.
func (a *agent) busy() bool {
	for _, k := range a.keepers {
		k.mu.Lock()
		task := k.task
		k.mu.Unlock()
		if task != "" {
			return true
		}
	}
	return false
}

// run reads until ctx ends.
func (s *scrubber) run(ctx context.Context) {
	retry := scrubRetry
	for ctx.Err() == nil {
		began := time.Now()
		err := s.round(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, repo.ErrKeysRotated) && time.Since(began) > time.Second:
			continue
		case time.Since(began) > scrubPatience:
			retry = scrubRetry
		}
		if errors.Is(err, repo.ErrNone) {
			s.log.Debug("there is no replica yet to be scrubbed")
		} else {
			s.log.Warn("the replica cannot be scrubbed; it is tried again", dr.KeyError, err, dr.KeyNext, dr.Advice(err), "in", retry)
		}
		wait(ctx, retry)
		retry = min(2*retry, scrubPatience)
	}
}

// round opens the replica, and reads until that fails.
func (s *scrubber) round(ctx context.Context) error {
	w := s.ws()
	defer func() {
		if err := w.Close(); err != nil {
			s.log.Debug("a repository could not be closed", dr.KeyError, err)
		}
	}()
	open, err := w.Scrub(ctx, s.repository, scrub.Options{Claim: true, Pause: s.busy})
	if err != nil {
		s.failed(err)
		return err
	}
	s.mu.Lock()
	s.scrub = open
	s.mu.Unlock()
	err = open.Run(ctx)
	if err != nil && ctx.Err() == nil && !errors.Is(err, repo.ErrKeysRotated) {
		open.Failed(err)
	}
	s.mu.Lock()
	s.scrub, s.status.Statement = nil, open.Statement()
	s.mu.Unlock()
	return errors.Join(err, open.Close())
}

// failed notes that the replica could not be opened.
func (s *scrubber) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, repo.ErrNone) {
		return
	}
	if s.status.Error = err.Error(); s.status.Failing.IsZero() {
		s.status.Failing = time.Now().UTC()
	}
}

func (s *scrubber) read() ScrubStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scrub != nil {
		return ScrubStatus{s.site, s.scrub.Statement()}
	}
	return s.status
}

// illness says what is wrong with a replica's bytes.
func (s ScrubStatus) illness(now time.Time) (out []string) {
	if n := len(s.Left); n > 0 {
		out = append(out, fmt.Sprintf("%d objects at site %s are damaged or missing, the first is %s: %s", n, s.Site, s.Left[0].Object, oneLine(s.Left[0].Reason)))
	}
	if away := now.Sub(s.Failing); s.Error != "" && !s.Failing.IsZero() && away > scrubGrace {
		out = append(out, fmt.Sprintf("nothing at site %s can be read again since %s: %s", s.Site, s.Failing.Format(time.RFC3339), oneLine(s.Error)))
	}
	if s.By == "" && s.Late() {
		out = append(out, fmt.Sprintf("bytes at site %s were not read again for one and a half times as long as scrub.window allows (%s)", s.Site, s.Window))
	}
	return out
}
