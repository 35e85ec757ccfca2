package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// breakGlass opens a repository without any configuration: with the binary, a replica and a key, what is stored
// can be listed and restored when every server of ours is gone.
// A configuration may name several replicas, of which it may be told to use one.
type breakGlass struct {
	site       string
	url        string
	passphrase string
	identities []string
	asOf       string
}

func (b *breakGlass) addFlags(c *cobra.Command) {
	f := c.Flags()
	addSite(c, &b.site)
	f.StringVar(&b.url, "repo", "", "`URL` of a repository, instead of the configuration's: a directory, s3://bucket/prefix?…, gs://bucket/prefix, azblob://account/container/prefix or sftp://user@host/path")
	f.StringVar(&b.passphrase, "passphrase-file", "", "`file` with the passphrase of --repo")
	f.StringArrayVar(&b.identities, "identity", nil, "age identity `file` that opens --repo; may be repeated")
	f.StringVar(&b.asOf, "as-of", "", "read the repository as it stood at a `time` (UTC, or with its zone), whatever was deleted or overwritten since; needs a bucket with versioning")
}

// then returns the time of --as-of, zero where it was not given.
func (b *breakGlass) then() (time.Time, error) {
	if b == nil || b.asOf == "" {
		return time.Time{}, nil
	}
	t, err := points.ParseTarget(b.asOf)
	if err == nil && t.Kind != points.AtTime {
		err = errors.New("it is no time: write 2026-03-02T14:05:00Z")
	}
	if err != nil {
		return time.Time{}, usage(fmt.Errorf("--as-of %q: %w", b.asOf, err))
	}
	return t.Time, nil
}

const breakGlassName = "given"

// workspace returns what the command works with: from the configuration, or from the flags where b names a
// repository. b may be nil.
func (a *app) workspace(b *breakGlass) (*workspace.Workspace, error) {
	then, err := b.then()
	if err != nil {
		return nil, err
	}
	if b == nil || b.url == "" {
		c, err := a.config()
		if err != nil {
			return nil, err
		}
		w := workspace.New(c, a.logger())
		w.Program = a.command
		if b != nil {
			w.Site = b.site
		}
		w.AsOf = then
		return w, nil
	}
	if b.site != "" {
		return nil, usage(errors.New("--site chooses among the configuration's replicas, and --repo names one: give one of the two"))
	}
	c, err := b.config()
	if err != nil {
		return nil, usage(err)
	}
	w := workspace.New(c, a.logger())
	w.AsOf, w.Program = then, a.command
	return w, nil
}

// config writes the configuration that the flags stand for, and lets the one reader of configurations check it.
func (b *breakGlass) config() (*config.Config, error) {
	state, err := os.UserConfigDir()
	if err != nil {
		state = os.TempDir()
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	url := b.url
	if !strings.Contains(url, "://") {
		abs, err := filepath.Abs(url)
		if err != nil {
			return nil, err
		}
		url = "file://" + abs
	}
	keys := map[string]any{}
	if b.passphrase != "" {
		keys["passphrase-file"] = absolute(b.passphrase)
	}
	if len(b.identities) > 0 {
		var files []string
		for _, i := range b.identities {
			files = append(files, absolute(i))
		}
		keys["identity-files"] = files
	}
	text, err := yaml.Marshal(map[string]any{
		"version": 1,
		"sites":   map[string]any{breakGlassName: map[string]any{}},
		"repositories": map[string]any{breakGlassName: map[string]any{
			"replicas": []any{map[string]any{"site": breakGlassName, "url": url}},
			"keys":     keys,
			"cache":    filepath.Join(cache, "holdfast"),
		}},
		"agent": map[string]any{"state": filepath.Join(state, "holdfast")},
	})
	if err != nil {
		return nil, err
	}
	return config.Parse("--repo", text)
}

func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}

// repositoryName returns name, or the only repository of the configuration where name is empty.
func repositoryName(c *config.Config, name string) (string, error) {
	if name != "" {
		return name, nil
	}
	names := slices.Sorted(maps.Keys(c.Repositories))
	switch len(names) {
	case 1:
		return names[0], nil
	case 0:
		return "", usage(errors.New("the configuration has no repository"))
	}
	return "", usage(fmt.Errorf("the configuration has the repositories %s: name one", strings.Join(names, ", ")))
}

// repositoryOf opens the repository that holds a system: the configured one, or, for a system that the
// configuration does not know (break glass, or one that was removed from it), the only one there is.
func (a *app) repositoryOf(ctx context.Context, w *workspace.Workspace, system string) (*repo.Repository, error) {
	if s, err := w.Config.System(system); err == nil {
		return w.Repository(ctx, s.Repository)
	} else if len(w.Config.Repositories) != 1 {
		return nil, err
	}
	name, err := repositoryName(w.Config, "")
	if err != nil {
		return nil, err
	}
	r, err := w.Repository(ctx, name)
	if err != nil {
		return nil, err
	}
	return r, knownSystem(ctx, r, system)
}

// knownSystem returns an error that lists the systems of the repository where it has none of this name.
func knownSystem(ctx context.Context, r *repo.Repository, system string) error {
	all, err := r.Systems(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range all {
		if s.Name == system {
			return nil
		}
		names = append(names, s.Name)
	}
	if len(names) == 0 {
		return dr.Fail(fmt.Sprintf("system %q", system), errors.New("the repository holds nothing yet"), "take a first snapshot: holdfast snapshot create "+system)
	}
	return usage(dr.Fail(fmt.Sprintf("system %q", system), errors.New("the repository does not know it; it has "+strings.Join(names, ", ")), "name one of these"))
}
