package cli

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
)

// initConfig writes a first holdfast.yaml for a database that it finds.
type initConfig struct {
	app        *app
	connection string
	system     string
	repository string
	state      string
	out        string
	remote     bool
}

func newInitCommand(a *app) *cobra.Command {
	i := &initConfig{app: a}
	c := &cobra.Command{
		Use:   "init",
		Short: "Write a commented holdfast.yaml for a database that is found here",
		Long: `Connects to a running PostgreSQL, looks what it is, and writes a configuration for it beside a new random
passphrase file. Nothing is overwritten, and the database is only asked. Read the file, then make the repository
with holdfast repo init.`,
		Example: "  holdfast init --connection 'host=/var/run/postgresql user=postgres dbname=postgres' --system orders-db",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return i.run(c.Context()) },
	}
	f := c.Flags()
	f.StringVar(&i.connection, "connection", "host=/var/run/postgresql dbname=postgres", "libpq connection `string`, without a password")
	f.StringVar(&i.system, "system", "", "`name` of the system (default: the cluster's cluster_name, or \"postgres\")")
	f.StringVar(&i.repository, "repository", "/var/lib/holdfast/repository", "`place` of the repository: a directory, s3://bucket/prefix?…, gs://bucket/prefix, azblob://account/container/prefix or sftp://user@host/path")
	f.StringVar(&i.state, "state", "/var/lib/holdfast", "`directory` for the agent's state")
	f.StringVar(&i.out, "file", "holdfast.yaml", "`file` to write")
	f.BoolVar(&i.remote, "remote", false, "read the database over the replication protocol, even where its files are on this machine")
	return c
}

type initedConfig struct {
	File       string `json:"file"`
	Passphrase string `json:"passphraseFile"`
	System     string `json:"system"`
	Version    string `json:"version"`
	Mode       string `json:"mode"`
}

func (i initedConfig) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, `found PostgreSQL %s; wrote %s (system %s, %s mode) and the passphrase %s
keep a copy of the passphrase where this machine's loss does not reach: without it nothing can be recovered
next:
  holdfast --config %s repo init
  holdfast --config %s snapshot create %s
  holdfast --config %s agent
`, i.Version, i.File, i.System, i.Mode, i.Passphrase, i.File, i.File, i.System, i.File)
	return err
}

func (i *initConfig) run(ctx context.Context) error {
	info, err := i.look(ctx)
	if err != nil {
		return err
	}
	out := initedConfig{File: absolute(i.out), System: i.name(info), Version: info.Version(), Mode: "remote"}
	out.Passphrase = strings.TrimSuffix(out.File, filepath.Ext(out.File)) + ".passphrase"
	dataDir := ""
	if !i.remote && info.DataDir != "" && info.CheckLocal(info.DataDir, info.SystemID) == nil {
		dataDir, out.Mode = info.DataDir, "local"
	}
	text, err := i.text(out, info, dataDir)
	if err != nil {
		return err
	}
	if err := writeNew(out.Passphrase, newPassphrase()+"\n", 0o600); err != nil {
		return err
	}
	if err := writeNew(out.File, text, 0o644); err != nil {
		return errors.Join(err, os.Remove(out.Passphrase))
	}
	return i.app.emit(out)
}

// look connects and asks.
func (i *initConfig) look(ctx context.Context) (cluster.Info, error) {
	conn, err := cluster.Connect(ctx, i.connection)
	if err != nil {
		return cluster.Info{}, dr.Advise(err, "give --connection: how psql would reach the database as a superuser or a role with pg_read_all_settings and replication")
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only asked
	info, err := cluster.Identify(ctx, conn)
	if err != nil {
		return info, err
	}
	return info, info.Check()
}

func (i *initConfig) name(info cluster.Info) string {
	if i.system != "" {
		return i.system
	}
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(info.Settings.ClusterName))
	if dr.CheckName(name) != nil {
		return "postgres"
	}
	return name
}

// newPassphrase returns 256 random bits: long enough to need no stretching.
func newPassphrase() string {
	b := make([]byte, 32)
	rand.Read(b) //nolint:errcheck // never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b)
}

// writeNew makes a file that did not exist.
func writeNew(path, text string, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return dr.Fail("write "+path, errors.New("it exists"), "give another --file, or move it away")
		}
		return err
	}
	_, err = io.WriteString(f, text)
	return errors.Join(err, f.Sync(), f.Close())
}

// text writes the configuration and proves that it is one.
func (i *initConfig) text(out initedConfig, info cluster.Info, dataDir string) (string, error) {
	repository := i.repository
	if !strings.Contains(repository, "://") {
		repository = "file://" + absolute(repository)
	}
	data := "      # data-directory: the files are read over the replication protocol, since none is given here\n"
	if dataDir != "" {
		data = fmt.Sprintf("      data-directory: %q    # read in place, beside the server\n", dataDir)
	}
	text := fmt.Sprintf(`# Holdfast: what is protected, where to, how often, and what is promised.
# holdfast validate checks this file; holdfast config show prints it with every default.
version: 1

sites:
  here: {}                          # a place that can be lost as a whole; a copy elsewhere comes with a second site

repositories:
  main:
    replicas:
      - {site: here, url: %q}
    keys:
      passphrase-file: %q           # keep a copy elsewhere, and add an offline key: holdfast key add break-glass age1…
    cache: %q                       # holds no data, may be deleted

systems:
  %s:                               # PostgreSQL %s, system identifier %d
    repository: main
    policy: standard
    postgres:
      connection: %q                # a password belongs into ~/.pgpass or PGPASSFILE
%s
policies:
  standard:
    schedule: hourly                # or daily, "every 15m", "0 */4 * * *"
    log: {stream: true, interval: 1s}   # the log's tail is in the repository a second after it was written
    retention: {keep-last: 3, keep-hourly: 24, keep-daily: 7, keep-weekly: 5, keep-monthly: 12}
    check: {schedule: daily, sample: "1%%"}
    objectives: {rpo: 1m, rto: 15m}

agent:
  listen: "127.0.0.1:9847"          # metrics and health
  state: %q
`, repository, out.Passphrase, filepath.Join(absolute(i.state), "cache"), out.System, info.Version(), info.SystemID, i.connection, data, absolute(i.state))
	if _, err := config.Parse(out.File, []byte(text)); err != nil {
		return "", usage(err)
	}
	return text, nil
}
