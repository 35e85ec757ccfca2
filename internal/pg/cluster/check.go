package cluster

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Check refuses a server whose backups could not be recovered.
func (i Info) Check() error {
	switch {
	case i.Settings.WALLevel == "minimal":
		return &dr.Failure{
			What:   "this server writes too little log for a backup",
			Reason: "wal_level is minimal: changes to new tables are not in the log",
			Next:   "ALTER SYSTEM SET wal_level = 'replica'; and restart the server",
		}
	case !i.Settings.FullPageWrites:
		return &dr.Failure{
			What:   "a backup of this server could not be recovered",
			Reason: "full_page_writes is off: pages that are written while we read them stay torn for ever",
			Next:   "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();",
		}
	case i.BlockSize != 8192:
		return &dr.Failure{
			What:   fmt.Sprintf("this server has pages of %d bytes", i.BlockSize),
			Reason: "only PostgreSQL's default of 8192 is supported",
			Next:   "build PostgreSQL with the default block size",
		}
	}
	return i.WALSegmentSize.Check()
}

// CheckLocal refuses to read dataDir as this server's data directory where it is another cluster's: a backup of
// one server's files under another's label is worthless. systemID is what dataDir's pg_control says.
func (i Info) CheckLocal(dataDir string, systemID uint64) error {
	if systemID == i.SystemID {
		return nil
	}
	return &dr.Failure{
		What:   fmt.Sprintf("%s is not the data directory of the server that was connected to", dataDir),
		Reason: fmt.Sprintf("its system identifier is %d, the server's is %d", systemID, i.SystemID),
		Next:   "correct the data directory or the connection string; a server on another machine needs a remote snapshot",
	}
}

// Need is what a role is to be used for.
type Need uint8

// The uses of a role; they may be combined.
const (
	ForBackup      Need = 1 << iota // BeginBackup
	ForReplication                  // RemoteBackup and the log stream
	ForDataDir                      // to find the data directory without being told
	ForFiles                        // WalkServer, and to read single pages over SQL
)

// CheckPrivileges returns an error that names every privilege that the connected role lacks, with the statements
// that mend it.
func CheckPrivileges(ctx context.Context, conn *pgx.Conn, i Info, need Need) error {
	start, stop := "pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"
	if i.Major() < 15 {
		start, stop = "pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"
	}
	var role string
	var replication, canStart, canStop, canRead bool
	err := conn.QueryRow(ctx, `
		SELECT current_user, rolreplication OR rolsuper, has_function_privilege($1, 'EXECUTE'),
		       has_function_privilege($2, 'EXECUTE'), pg_has_role('pg_read_all_settings', 'USAGE')
		FROM pg_roles WHERE rolname = current_user`, start, stop).
		Scan(&role, &replication, &canStart, &canStop, &canRead)
	if err != nil {
		return fmt.Errorf("ask for the role's privileges: %w", err)
	}
	var missing, mend []string
	lack := func(what, statement string) {
		missing, mend = append(missing, what), append(mend, statement)
	}
	name := quoteName(role)
	if need&ForBackup != 0 && !(canStart && canStop) {
		lack("to begin and end a backup", fmt.Sprintf("GRANT EXECUTE ON FUNCTION %s, %s TO %s;", start, stop, name))
	}
	if need&ForFiles != 0 {
		statement, err := lackedFileFunctions(ctx, conn, name)
		if err != nil {
			return err
		}
		if statement != "" {
			lack("to read single pages of its files", statement)
		}
	}
	if need&ForReplication != 0 && !replication {
		lack("to replicate", fmt.Sprintf("ALTER ROLE %s REPLICATION;", name))
	}
	if need&ForDataDir != 0 && !canRead {
		lack("to see the data directory's path", fmt.Sprintf("GRANT pg_read_all_settings TO %s;", name))
	}
	if len(missing) == 0 {
		return nil
	}
	return &dr.Failure{
		What:   fmt.Sprintf("role %s may not protect this server", role),
		Reason: "it lacks the right " + strings.Join(missing, ", and the right "),
		Next:   "as a superuser, in the database that is connected to: " + strings.Join(mend, " "),
	}
}

// fileFunctions read the files of a server's data directory over SQL. No more is needed for paths below it.
var fileFunctions = []string{
	"pg_read_binary_file(text, bigint, bigint, boolean)", "pg_stat_file(text, boolean)", "pg_ls_dir(text, boolean, boolean)",
}

// lackedFileFunctions returns the statement that grants what a role lacks of them.
func lackedFileFunctions(ctx context.Context, conn *pgx.Conn, name string) (string, error) {
	var ok bool
	err := conn.QueryRow(ctx, "SELECT bool_and(has_function_privilege(f, 'EXECUTE')) FROM unnest($1::text[]) AS f", fileFunctions).Scan(&ok)
	if err != nil {
		return "", fmt.Errorf("ask for the role's privileges: %w", err)
	}
	if ok {
		return "", nil
	}
	return fmt.Sprintf("GRANT EXECUTE ON FUNCTION %s TO %s;", strings.Join(fileFunctions, ", "), name), nil
}
