package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

func TestTheStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agent{log: slog.New(slog.DiscardHandler), keepers: []*keeper{nil, nil}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		ended <- errors.New("the tail is not stored")
		time.AfterFunc(time.Hour, cancel)
		began := time.Now()
		err := a.wait(ctx, ended) // the second one never ends
		if got := time.Since(began); got != time.Hour+endTimeout {
			t.Errorf("the agent ended after %s, want %s after the stop", got, endTimeout)
		}
		if err == nil || !strings.Contains(err.Error(), "not everything stopped within 40s") || !strings.Contains(err.Error(), "the tail is not stored") {
			t.Errorf("it ended with: %v", err)
		}
	})
}

func TestTheAgentEndsWhenNoSystemIsLeft(t *testing.T) {
	a := &agent{log: slog.New(slog.DiscardHandler), keepers: []*keeper{nil, nil}}
	ended := make(chan error, 2)
	ended <- ErrSecondAgent
	ended <- ErrSecondAgent
	if err := a.wait(t.Context(), ended); !errors.Is(err, ErrSecondAgent) {
		t.Errorf("it ended with: %v", err)
	}
}

// Of systems that would check one repository in the same way, one does.
func TestARepositoryIsCheckedOnce(t *testing.T) {
	daily, err := dr.ParseSchedule("daily")
	if err != nil {
		t.Fatal(err)
	}
	weekly, err := dr.ParseSchedule("weekly")
	if err != nil {
		t.Fatal(err)
	}
	c := &config.Config{
		Agent: config.Agent{State: t.TempDir(), Memory: 1 << 30},
		Repositories: map[string]config.Repository{
			"one": {Name: "one", Replicas: []config.Replica{{Site: "here"}}}, "two": {Name: "two", Replicas: []config.Replica{{Site: "here"}}},
		},
		Systems: map[dr.SystemName]config.System{
			"a": {Name: "a", Repository: "one", Policy: "p"}, "b": {Name: "b", Repository: "one", Policy: "p"},
			"c": {Name: "c", Repository: "one", Policy: "q"}, "d": {Name: "d", Repository: "two", Policy: "p"},
			"e": {Name: "e", Repository: "one", Policy: "r"},
		},
		Policies: map[string]config.Policy{
			"p": {Check: config.Check{Schedule: daily, Sample: 0.1}}, "q": {Check: config.Check{Schedule: weekly, Sample: 0.1}},
			"r": {Check: config.Check{Schedule: daily, Sample: 0.5}},
		},
	}
	a, err := newAgent(Config{Workspace: workspace.New(c, slog.New(slog.DiscardHandler))})
	if err != nil {
		t.Fatal(err)
	}
	defer a.unlock() //nolint:errcheck // the test ends
	var checking []string
	for _, k := range a.keepers {
		if !k.plan.checks.Next(k.system.Name, time.Now()).IsZero() {
			checking = append(checking, string(k.system.Name))
		}
	}
	if got := strings.Join(checking, " "); got != "a c d e" {
		t.Errorf("checks are made for %s, want a c d e", got)
	}
	if _, err := newAgent(Config{Workspace: workspace.New(c, slog.New(slog.DiscardHandler)), Systems: []string{"d", "b"}}); !errors.Is(err, ErrSecondAgent) {
		t.Errorf("a second agent for two of the systems: %v", err)
	}
}
