package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
)

const (
	hidden      = "hidden by a mark that says it was deleted, at %s; an earlier version is there"
	overwritten = "another version was put over it, at %s; an earlier one is there"
)

func stampOf(v store.Version) string { return v.Written.UTC().Format(time.RFC3339) }

// missing says why a pack is not there.
func (c *checker) missing(ctx context.Context, name string) (string, error) {
	if c.r.earlier == nil {
		return "missing", nil
	}
	all, err := store.VersionsOf(ctx, c.r.earlier.vault, name)
	if err != nil && !c.unlistable(err) {
		return "", err
	}
	if len(all) > 1 && all[0].Deleted {
		return fmt.Sprintf("missing: "+hidden, stampOf(all[0])), nil
	}
	return "missing", nil
}

// unlistable tells whether an error only says that versions cannot be listed here: by these credentials, or, where nobody has asked for
// a lock, by a server that knows of no versions.
func (c *checker) unlistable(err error) bool {
	var e *store.Error
	if !errors.As(err, &e) || e.Op != "versions" {
		return false
	}
	return e.Kind == store.Denied || e.Kind == store.Other && c.r.opts.Lock == 0
}

// versions looks for objects that somebody without keys has hidden or overwritten: readers may take earlier versions of them, but
// not of those that are found by a listing.
func (c *checker) versions(ctx context.Context) error {
	e := c.r.earlier
	if e == nil {
		return nil
	}
	l, err := c.r.readLocked(ctx)
	if err != nil {
		return err
	}
	slots := prefixKeys + c.r.id + "/"
	if e, err := c.r.currentEpoch(ctx); err == nil {
		slots = slotName(c.r.id, e.Generation, "")
	}
	for _, prefix := range []string{
		markerName, slots, prefixEpochs, prefixPacks, prefixIndex, prefixBase, prefixSystems, prefixSnapshots, prefixCollect, prefixGraves,
		prefixLogFiles, prefixSigners, prefixPlaces, prefixEvidence, replicaName,
	} {
		err := byName(ctx, e.vault, prefix, "", func(all []store.Version) error { return c.name(ctx, l.Since, all) })
		if c.unlistable(err) {
			c.note("earlier versions were not looked at: the server does not list them, or the credentials lack s3:ListBucketVersions (%v)", err)
			return nil
		}
		if err != nil {
			return err
		}
	}
	if err := c.hiddenMarks(ctx); err != nil {
		return err
	}
	return c.hiddenLog(ctx)
}

// byName calls fn for the versions of each name.
func byName(ctx context.Context, v store.Vault, prefix, after string, fn func([]store.Version) error) error {
	var all []store.Version
	err := v.Versions(ctx, prefix, after, func(v store.Version) error {
		if len(all) > 0 && all[0].Name != v.Name {
			if err := fn(all); err != nil {
				return err
			}
			all = all[:0]
		}
		all = append(all, v)
		return nil
	})
	if err == nil && len(all) > 0 {
		err = fn(all)
	}
	return err
}

// name judges the versions of one name. since is when deletions of snapshots began to leave a tombstone under them.
func (c *checker) name(ctx context.Context, since time.Time, all []store.Version) error {
	now, name := all[0], all[0].Name
	if !now.Deleted {
		if len(all) > 1 && (!c.good(ctx, now) || !c.first(ctx, all)) {
			c.problem(name, fmt.Sprintf(overwritten, stampOf(now)))
		}
		return ctx.Err()
	}
	switch {
	case stays(name), name == replicaName, strings.HasPrefix(name, prefixEpochs), strings.HasPrefix(name, prefixKeys), c.counts(name):
	case strings.HasPrefix(name, prefixSnapshots) && !since.IsZero() && now.Written.After(since):
		// Whoever forgets puts a tombstone there first.
		_, b, err := c.r.earlier.choose(ctx, all)
		if err != nil || b == nil {
			return ctx.Err()
		}
		if m, err := c.r.openManifest(ctx, name, b); err == nil && m == nil {
			return nil
		}
	default:
		return nil
	}
	if slices.ContainsFunc(all, func(v store.Version) bool { return !v.Deleted && c.good(ctx, v) }) {
		c.problem(name, fmt.Sprintf(hidden, stampOf(now)))
	}
	return ctx.Err()
}

// counts tells whether an object of the index, or of the collections, is of those that no collection has removed.
func (c *checker) counts(name string) bool {
	if _, generation, ok := parseIndexName(name); ok {
		return strings.HasPrefix(name, prefixIndex) && generation >= c.view.floor()
	}
	number, ok := strings.CutPrefix(name, prefixCollect)
	if !ok || len(number) < 8 {
		return false
	}
	n, err := strconv.ParseUint(number[:8], 16, 32)
	return err == nil && uint32(n) >= c.view.done
}

// good tells whether a version is what was stored.
func (c *checker) good(ctx context.Context, v store.Version) bool {
	b, err := store.Whole(ctx, c.r.earlier.vault, v, maxIndexObject)
	return err == nil && c.r.authentic(v.Name, b)
}

// first tells whether a slot or an epoch is what counts of its versions.
func (c *checker) first(ctx context.Context, all []store.Version) bool {
	if !isPlain(all[0].Name) {
		return true
	}
	now, err := store.Whole(ctx, c.r.earlier.vault, all[0], maxSmall)
	if err != nil {
		return false
	}
	_, was, err := c.r.earlier.choose(ctx, all)
	return err != nil || was == nil || bytes.Equal(was, now)
}

// streams calls fn for each stream below a prefix, "<prefix><system>/<stream>/", of which there are, or were, objects.
func (c *checker) streams(ctx context.Context, prefix string, fn func(prefix string) error) error {
	const depth = 32 + 1 + 8 + 1 // hash, slash, stream, slash
	stop := errors.New("stop")
	for after := ""; ; {
		found := ""
		err := c.r.earlier.vault.Versions(ctx, prefix, after, func(v store.Version) error {
			if after = v.Name; len(v.Name) <= len(prefix)+depth {
				return nil
			}
			found = v.Name[:len(prefix)+depth]
			return stop
		})
		if err != nil && !errors.Is(err, stop) || found == "" {
			return err
		}
		if err := fn(found); err != nil {
			return err
		}
		after = found[:len(found)-1] + "0" // behind every name that goes on with a slash
	}
}

// hiddenMarks looks whether a stream's highest mark was removed: whoever puts one removes lower ones only. Without it a log whose end
// is hidden too would look whole.
func (c *checker) hiddenMarks(ctx context.Context) error {
	return c.streams(ctx, prefixMarks, func(prefix string) error {
		highest := ""
		if err := c.r.store.List(ctx, prefix, "", func(i store.Info) error { highest = i.Name; return nil }); err != nil {
			return err
		}
		var last []store.Version
		err := byName(ctx, c.r.earlier.vault, prefix, highest, func(all []store.Version) error {
			if all[0].Deleted {
				last = slices.Clone(all)
			}
			return nil
		})
		if err == nil && last != nil && slices.ContainsFunc(last, func(v store.Version) bool { return !v.Deleted && c.good(ctx, v) }) {
			c.problem(last[0].Name, fmt.Sprintf(hidden, stampOf(last[0])))
		}
		return err
	})
}

// hiddenLog looks for parts of logs that would fill a gap, or go on behind the end. What is before the beginning of all that
// snapshots need is of no interest: retention removes it.
func (c *checker) hiddenLog(ctx context.Context) error {
	needed, newest := map[StreamID]uint64{}, StreamID(0)
	for _, n := range c.needs {
		newest = max(newest, n.Stream)
		if at, ok := needed[n.Stream]; !ok || n.Start < at {
			needed[n.Stream] = n.Start
		}
	}
	return c.streams(ctx, prefixLog, func(prefix string) error {
		var ours []Extent
		err := c.r.store.List(ctx, prefix, "", func(i store.Info) error {
			if s, start, end, ok := parseExtentName(i.Name); ok {
				ours = append(ours, Extent{s, start, end, i.Size})
			}
			return nil
		})
		if err != nil {
			return err
		}
		have := Merge(byStart(ours))
		number, err := strconv.ParseUint(prefix[len(prefix)-9:len(prefix)-1], 16, 32)
		if from, known := needed[StreamID(number)]; err == nil && (known || len(c.needs) > 0 && StreamID(number) > newest) {
			have = append([]Range{{from, from}}, slices.DeleteFunc(have, func(r Range) bool { return r.End <= from })...)
		}
		return removedLog(ctx, c.r.earlier.vault, prefix, have, true, func(e Extent, all []store.Version) {
			if slices.ContainsFunc(all, func(v store.Version) bool { return !v.Deleted && c.good(ctx, v) }) {
				c.problem(all[0].Name, fmt.Sprintf(hidden, stampOf(all[0])))
			}
		})
	})
}

// removedLog calls fn for parts of a stream that were removed, and that no range covers, from the beginning of the first range on;
// up to that of the last one, or with behind also beyond its end.
func removedLog(ctx context.Context, v store.Vault, prefix string, have []Range, behind bool, fn func(Extent, []store.Version)) error {
	enough := errors.New("enough")
	for i, r := range have {
		last := i == len(have)-1
		if last && !behind {
			break
		}
		after := ""
		if r.End > MaxExtent {
			after = fmt.Sprintf("%s%016x", prefix, r.End-MaxExtent)
		}
		err := byName(ctx, v, prefix, after, func(all []store.Version) error {
			s, start, end, ok := parseExtentName(all[0].Name)
			if !ok {
				return nil
			}
			if !last && start >= have[i+1].Start {
				return enough
			}
			size := int64(0)
			for _, x := range slices.Backward(all) {
				if !x.Deleted {
					size = x.Size
				}
			}
			if all[0].Deleted && end > r.End && size > 0 {
				fn(Extent{s, start, end, size}, all)
			}
			return nil
		})
		if err != nil && !errors.Is(err, enough) {
			return err
		}
	}
	return nil
}

// extentsBefore adds parts of a stream that were removed, and that would fill gaps: what is read of them is proven.
func (l *Log) extentsBefore(ctx context.Context, s StreamID, ours []Extent) []Extent {
	e := l.r.earlier
	if e == nil {
		return ours
	}
	out := ours
	_ = removedLog(ctx, e.vault, l.r.logPrefix(l.system, s), Merge(ours), false, func(x Extent, _ []store.Version) { // a gap stays, and is told of
		out = append(out, x)
	})
	return out
}

// bucket looks whether the place is as a lock needs it, and whether its owner lets what is current be removed.
func (c *checker) bucket(ctx context.Context) error {
	g := store.GuardedOf(c.r.bare)
	if g == nil {
		return nil
	}
	s, err := g.Settings(ctx)
	if err != nil {
		return err
	}
	c.report.Warnings = append(c.report.Warnings, LockWarnings(s, c.r.opts.Lock > 0)...)
	return nil
}

// LockWarnings says what of a bucket's settings endangers what is in it.
func LockWarnings(s store.Settings, wanted bool) (out []string) {
	for _, rule := range s.Expiring {
		out = append(out, "the bucket's lifecycle rule "+rule+" removes objects that are needed: let it expire noncurrent versions only")
	}
	if !wanted {
		return out
	}
	unknown := strings.Join(s.Unknown, "; ")
	if !s.Versioning && !strings.Contains(unknown, "versioning") {
		out = append(out, "the bucket keeps no versions: whoever may write can overwrite everything; enable versioning")
	}
	if !s.ObjectLock && !strings.Contains(unknown, "Object Lock") {
		out = append(out, "the bucket has no Object Lock: nothing in it is retained; enable it")
	}
	if s.Versioning && !s.Noncurrent && !strings.Contains(unknown, "lifecycle") {
		out = append(out, "no lifecycle rule removes noncurrent versions: what was pruned is kept, and paid for, for ever; see docs/credentials.md")
	}
	if unknown != "" {
		out = append(out, "not everything could be asked of the bucket: "+unknown)
	}
	return out
}
