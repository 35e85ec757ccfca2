package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// listed is what snapshot list -o json prints, as far as it is needed here.
type listed struct {
	ID       string         `json:"id"`
	Manifest *repo.Manifest `json:"manifest"`
}

func (d *demo) snapshots(ctx context.Context) ([]listed, error) {
	out, err := d.holdfast(ctx, "-o", "json", "snapshot", "list")
	if err != nil {
		return nil, err
	}
	var list []listed
	return list, json.Unmarshal(out, &list)
}

// restored is what restore -o json prints, as far as it is needed here.
type restored struct {
	InFlight *points.Flight `json:"inFlight"`
	Phases   []Phase        `json:"phases"`
	Server   struct {
		PID    int    `json:"pid"`
		Socket string `json:"socket"`
		Port   int    `json:"port"`
	} `json:"server"`
}

func (d *demo) recover(ctx context.Context) error {
	to, at := filepath.Join(d.o.Dir, "recovered"), ""
	args := []string{"-o", "json", "restore", system, "--to", to, "--start", "--bin-directory", d.primary.bin}
	if d.result.From != "" {
		at = " --site " + d.result.From
		args = append(args, "--site", d.result.From)
	}
	out, err := d.holdfast(ctx, args...)
	d.result.RTO = time.Since(d.ledger.disaster)
	if err != nil {
		return err
	}
	var r restored
	if err := json.Unmarshal(out, &r); err != nil {
		return fmt.Errorf("read what restore printed: %w", err)
	}
	d.result.Phases = r.Phases
	d.primary = &server{bin: d.primary.bin, dir: to, socket: r.Server.Socket, port: r.Server.Port, pid: r.Server.PID}
	d.say("   holdfast restore %s%s --to %s --start", system, at, to)
	if r.InFlight != nil {
		d.say("   a part of the log that was on its way here never came: %s", r.InFlight)
	}
	for _, p := range r.Phases {
		d.say("     %-12s %8s", p.Name, p.Took.Round(time.Millisecond))
	}
	return nil
}

func (d *demo) compare(ctx context.Context) error {
	if err := d.ledger.compare(ctx, d.primary.connString(), &d.result); err != nil {
		return err
	}
	r := &d.result
	d.say("   %d of %d acknowledged commits came back, %d lost, %d wrong; %d more came back that nobody had been told of",
		r.Recovered, r.Acknowledged, r.Lost, r.Wrong, r.Unconfirmed)
	d.say("\n   RPO %s   (all that was committed earlier before the disaster is there)\n   RTO %s   (from kill -9 to the first answered query)",
		r.RPO.Round(time.Millisecond), r.RTO.Round(time.Millisecond))
	if r.Wrong > 0 {
		return fmt.Errorf("%d rows came back with another content", r.Wrong)
	}
	return nil
}

// cleanUp ends what still runs.
func (d *demo) cleanUp() {
	if d.agent != nil {
		_ = d.agent.Process.Kill() // it may have ended
		_ = d.agent.Wait()
	}
	if d.ledger != nil {
		d.ledger.stop()
	}
	if d.primary != nil {
		_ = d.primary.kill9() // it may have ended
	}
}
