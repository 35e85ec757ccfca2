package scrub

import (
	"context"
	"encoding/json"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

const (
	claimEvery = time.Hour
	// claimPatience is how long a claim is respected that is not renewed, by our own clock.
	claimPatience = 3 * claimEvery
)

// claim is what is known of who reads the replica. Two who believe that they do only read twice.
type claim struct {
	looked time.Time
	ours   bool
	by     string    // the host that does, where that is not ours
	last   string    // of another's
	since  time.Time // when it was first seen so, by our clock: theirs may be wrong
}

// claimed tells whether this process is the one that reads the replica.
func (s *Scrub) claimed(ctx context.Context) (bool, error) {
	c, now := &s.claim, s.o.now()
	if !s.o.Claim {
		return true, nil
	}
	if since := now.Sub(c.looked); !c.looked.IsZero() && since >= 0 && since < claimEvery {
		return c.ours, nil
	}
	there, err := s.r.ScrubClaim(ctx)
	if err != nil {
		return false, err
	}
	if there != nil && there.Who != s.r.SignerID() {
		if is := there.Who + there.At.String(); is != c.last {
			c.last, c.since = is, now
		}
		if waited := now.Sub(c.since); waited < claimPatience && waited >= 0 {
			if c.ours || c.by == "" {
				s.o.Log.Info("another host scrubs this replica", "host", there.Host)
			}
			c.ours, c.by, c.looked = false, there.Host, now
			s.say("")
			return false, nil
		}
	}
	c.ours, c.by = true, ""
	s.say(s.Statement().Error)
	body, err := json.Marshal(s.Statement())
	if err == nil {
		err = s.r.PutScrubClaim(ctx, body)
	}
	if store.KindOf(err) == store.Denied {
		s.o.Log.Debug("this replica is scrubbed without a claim; another agent may do it too", dr.KeyError, err)
		err = nil
	}
	if err == nil {
		c.looked = now
	}
	return err == nil, err
}
