package repo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Summary names what is kept of a part of a stream in a few bytes, which only the engine understands. It is made of
// the log and can be made again: a reader that misses one reads the log. It may begin and end anywhere.
type Summary struct {
	Stream StreamID
	Start  uint64
	End    uint64
}

// maxSummary bounds what is read of one: an honest one of an extent's length of log has some kilobytes.
const maxSummary = MaxExtent

func (l *Log) summaryPrefix(s StreamID) string {
	return fmt.Sprintf("%s%s/%08x/", prefixSummaries, l.r.keys.NameHash(l.system), uint32(s))
}

func (l *Log) summaryName(s Summary) string {
	return fmt.Sprintf("%s%016x-%016x", l.summaryPrefix(s.Stream), s.Start, s.End)
}

// PutSummary stores a summary. One that is there already is replaced: it says the same.
func (l *Log) PutSummary(ctx context.Context, s Summary, data []byte) error {
	if s.Start >= s.End || len(data) > maxSummary {
		return fmt.Errorf("%d bytes are no summary of the log from %x to %x", len(data), s.Start, s.End)
	}
	name := l.summaryName(s)
	return l.r.store.Put(ctx, name, l.r.keys.SealWhole(seal.KindSummary, name, data))
}

// Summary returns what PutSummary stored. store.ErrNotExist is in the error where there is none.
func (l *Log) Summary(ctx context.Context, s Summary) ([]byte, error) {
	name := l.summaryName(s)
	b, err := l.r.store.Get(ctx, name, 2*maxSummary)
	if err != nil {
		return nil, err
	}
	return l.r.keys.OpenWhole(seal.KindSummary, name, b)
}

// Summaries returns the summaries of a stream that begin at or after from and before to, by their start.
func (l *Log) Summaries(ctx context.Context, s StreamID, from, to uint64) ([]Summary, error) {
	prefix := l.summaryPrefix(s)
	var out []Summary
	err := l.r.store.List(ctx, prefix, fmt.Sprintf("%s%016x", prefix, from), func(i store.Info) error {
		start, end, ok := parseSummaryName(i.Name[len(prefix):])
		switch {
		case ok && start >= to:
			return errEnough
		case ok:
			out = append(out, Summary{s, start, end})
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return out, err
}

// parseSummaryName reads the last part of a name.
func parseSummaryName(name string) (start, end uint64, ok bool) {
	first, last, _ := strings.Cut(name, "-")
	start, err1 := strconv.ParseUint(first, 16, 64)
	end, err2 := strconv.ParseUint(last, 16, 64)
	return start, end, err1 == nil && err2 == nil && len(first) == 16 && len(last) == 16 && start < end
}

// dropSummaries removes the summaries of a stream that end at or before floor.
func (l *Log) dropSummaries(ctx context.Context, s StreamID, floor uint64, report *LogReport) error {
	all, err := l.Summaries(ctx, s, 0, floor)
	if err != nil {
		return err
	}
	for _, sum := range all {
		if sum.End > floor {
			continue
		}
		if err := l.r.store.Delete(ctx, l.summaryName(sum)); err != nil {
			return err
		}
		report.Summaries++
	}
	return nil
}
