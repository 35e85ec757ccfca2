package workspace

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
)

// MountRequest is what the process that serves a mount is asked.
type MountRequest struct {
	Do MountDeed `json:"do"`
}

// MountDeed is what it is asked to do.
type MountDeed string

// The deeds.
const (
	MountStatus MountDeed = "status"
	MountFinish MountDeed = "finish" // stop the server, unmount, start it on the plain directory
	MountEnd    MountDeed = "end"    // stop the server, unmount, and leave all as it is: it can be resumed
)

// MountAnswer is its answer.
type MountAnswer struct {
	System    string      `json:"system"`
	Snapshot  string      `json:"snapshot"`
	Dir       string      `json:"dir"`
	Phase     string      `json:"phase"`
	Writes    string      `json:"writes"`
	Hydration Hydration   `json:"hydration"`
	Fetched   dr.Bytes    `json:"fetchedBytes"` // of files, from the repository
	Server    int         `json:"serverPid,omitempty"`
	Error     *dr.Failure `json:"error,omitempty"`
}

// Serve answers requests until one ends the mount, or ctx does: then the server is stopped, the mount taken away, and all of it can be
// resumed.
func (i *Instant) Serve(ctx context.Context) error {
	var deeds sync.Mutex // guards finished and ended
	finished, ended := false, false
	err := sidecar.Serve(ctx, sidecar.Place{Dir: i.Mount.Control()}, math.MaxInt64, func(_ context.Context, q MountRequest) (a MountAnswer, stop bool) {
		ctx := context.WithoutCancel(ctx) // what was begun is done
		var err error
		if q.Do != MountStatus { // one after the other
			deeds.Lock()
			defer deeds.Unlock()
			if ended {
				a = i.status()
				a.Error = &dr.Failure{What: fmt.Sprintf("%s the mount over %q", q.Do, i.Mount.Dir), Reason: "another request has ended it", Next: "holdfast mount list shows what is left"}
				return a, true
			}
		}
		switch q.Do {
		case MountFinish:
			err = i.Finish(ctx)
			finished = err == nil
			stop, ended = finished, finished
		case MountEnd:
			_, err = i.StopServer(ctx)
			stop, ended = err == nil, err == nil
		}
		a = i.status()
		if err != nil {
			a.Error = failureOf(err)
		}
		return a, stop
	})
	if finished {
		return err
	}
	_, stopErr := i.StopServer(context.WithoutCancel(ctx))
	return errors.Join(err, stopErr, i.Close())
}

func failureOf(err error) *dr.Failure {
	var f *dr.Failure
	if errors.As(err, &f) {
		return &dr.Failure{What: f.What, Reason: f.Reason, Next: f.Next}
	}
	return &dr.Failure{What: err.Error()}
}

func (i *Instant) status() MountAnswer {
	s := i.Mount.State()
	return MountAnswer{
		System: s.System, Snapshot: string(s.Snapshot), Dir: i.Mount.Dir, Phase: string(s.Phase), Writes: string(i.Mount.Writes()),
		Hydration: i.Hydration(), Fetched: dr.Bytes(i.Mount.Fetched()), Server: restore.RunningServer(i.Mount.Dir),
	}
}
