// Everyday use of the JDBC driver, with its defaults; the PG* variables give the server. Prints the results as one line.
// tests/it/everyday describes the steps, the arguments and the results.

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.postgresql.PGConnection;

public class EverydayJdbc {
    static final int CLIENTS = 4;
    // The driver prepares a statement on the server that is executed the fifth time.
    static final int EXECUTIONS = 20;
    static final int[] BATCH = IntStream.range(100, 200).toArray();
    static final int[] COPIED = IntStream.range(1000, 11_000).toArray();
    static final String LARGE = "SELECT n, repeat('x', 1000) FROM generate_series(1, 10000) AS n";
    static final int LARGE_PIECE = 100;
    static final long CANCEL_INTERVAL_MS = 50;
    static String table;
    static CyclicBarrier meeting;

    public static void main(String[] arguments) throws Exception {
        table = arguments[0];
        meeting = new CyclicBarrier(arguments[1].equals("together") ? CLIENTS : 1);
        // If one client fails, the program does not wait for the others.
        ExecutorService threads = Executors.newFixedThreadPool(CLIENTS, task -> {
            Thread thread = new Thread(task);
            thread.setDaemon(true);
            return thread;
        });
        List<Future<String>> clients = new ArrayList<>();
        for (int client = 0; client < CLIENTS; client++) {
            int number = client;
            clients.add(threads.submit(() -> results(number)));
        }
        List<String> results = new ArrayList<>();
        for (Future<String> client : clients) {
            results.add(client.get());
        }
        System.out.println("{\"clients\":" + results + "}");
    }

    static Connection connect() throws SQLException {
        Properties properties = new Properties();
        String[][] variables = {
            {"user", "PGUSER"}, {"password", "PGPASSWORD"}, {"sslmode", "PGSSLMODE"}, {"sslrootcert", "PGSSLROOTCERT"},
        };
        for (String[] variable : variables) {
            String value = System.getenv(variable[1]);
            if (value != null) {
                properties.setProperty(variable[0], value);
            }
        }
        String server = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        return DriverManager.getConnection("jdbc:postgresql://" + server + "/" + System.getenv("PGDATABASE"), properties);
    }

    static String quoted(String text) {
        return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"") + "\"";
    }

    static int one(Connection connection, String query) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(query)) {
            rows.next();
            return rows.getInt(1);
        }
    }

    static String simple(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT 1, 'one'")) {
            rows.next();
            return "[" + rows.getInt(1) + "," + quoted(rows.getString(2)) + "]";
        }
    }

    static int prepared(Connection connection, int client, Set<Integer> servers) throws SQLException {
        int total = 0;
        try (PreparedStatement statement = connection.prepareStatement("SELECT pg_backend_pid(), ?::int + " + client)) {
            for (int number = 0; number < EXECUTIONS; number++) {
                statement.setInt(1, number);
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    servers.add(rows.getInt(1));
                    total += rows.getInt(2);
                }
            }
        }
        return total;
    }

    static String types(Connection connection) throws SQLException {
        String query = "SELECT ?::int, ?::bool, ?::bigint, ?::text, ?::bytea, ?::int[], 1.50::numeric,"
            + " '2024-02-29 12:34:56+00'::timestamptz, 2.5::float8, '{\"a\": [1, null]}'::jsonb";
        try (PreparedStatement statement = connection.prepareStatement(query)) {
            String row = null;
            // From the fifth execution on, values are transferred in binary format.
            for (int execution = 0; execution < EXECUTIONS; execution++) {
                statement.setNull(1, Types.INTEGER);
                statement.setBoolean(2, true);
                statement.setLong(3, 9007199254740993L);
                statement.setString(4, "Grüße €");
                statement.setBytes(5, new byte[] {0, (byte) 255});
                statement.setArray(6, connection.createArrayOf("int4", new Integer[] {1, null, 3}));
                String next = typesOf(statement);
                if (row != null && !row.equals(next)) {
                    throw new IllegalStateException(next);
                }
                row = next;
            }
            return row;
        }
    }

    static String typesOf(PreparedStatement statement) throws SQLException {
        try (ResultSet rows = statement.executeQuery()) {
            rows.next();
            Timestamp at = rows.getTimestamp(8);
            Object[] fields = {
                rows.getObject(1), rows.getBoolean(2), quoted(rows.getObject(3).toString()), quoted(rows.getString(4)),
                quoted(HexFormat.of().formatHex(rows.getBytes(5))),
                Arrays.toString((Object[]) rows.getArray(6).getArray()), quoted(rows.getBigDecimal(7).toString()),
                at.getTime() / 1000, rows.getDouble(9), rows.getString(10),
            };
            return Arrays.toString(fields);
        }
    }

    static int batch(Connection connection, int client) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("INSERT INTO " + table + " VALUES (?, ?)")) {
            for (int number : BATCH) {
                statement.setInt(1, client);
                statement.setInt(2, number);
                statement.addBatch();
            }
            int inserted = Arrays.stream(statement.executeBatch()).sum();
            batchWithAnError(connection);
            return inserted;
        }
    }

    static void batchWithAnError(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.addBatch("UPDATE " + table + " SET number = 0 WHERE number < 0");
            statement.addBatch("UPDATE " + table + " SET number = 1 / 0");
            statement.executeBatch();
            throw new IllegalStateException("no error");
        } catch (BatchUpdateException error) {
            if (!error.getSQLState().equals("22012")) {
                throw error;
            }
        }
    }

    static List<Integer> transactions(Connection connection, int client) throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement statement = connection.prepareStatement("INSERT INTO " + table + " VALUES (?, ?)")) {
            for (int number : new int[] {1, 2}) {
                statement.setInt(1, client);
                statement.setInt(2, number);
                statement.executeUpdate();
                if (number == 1) {
                    connection.commit();
                } else {
                    connection.rollback();
                }
            }
        }
        connection.setAutoCommit(true);
        String query = "SELECT number FROM " + table + " WHERE number < 10 AND client = " + client;
        List<Integer> numbers = new ArrayList<>();
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(query)) {
            while (rows.next()) {
                numbers.add(rows.getInt(1));
            }
        }
        return numbers;
    }

    static String failing(Connection connection, String query) {
        try {
            one(connection, query);
            return "null";
        } catch (SQLException error) {
            return quoted(error.getSQLState());
        }
    }

    static List<String> failures(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        List<String> states = new ArrayList<>();
        states.add(failing(connection, "SELECT 1 / 0"));
        states.add(failing(connection, "SELECT 1"));
        connection.rollback();
        connection.setAutoCommit(true);
        try (PreparedStatement statement = connection.prepareStatement("SELECT 1 / ?::int")) {
            for (int execution = 0; execution < EXECUTIONS; execution++) {
                statement.setInt(1, 1);
                statement.executeQuery().close();
            }
            statement.setInt(1, 0);
            statement.executeQuery();
            throw new IllegalStateException("no error");
        } catch (SQLException error) {
            states.add(quoted(error.getSQLState()));
        }
        return states;
    }

    static String copies(Connection connection, int client) throws Exception {
        var copies = connection.unwrap(PGConnection.class).getCopyAPI();
        String lines = Arrays.stream(COPIED).mapToObj(number -> client + "\t" + number + "\n").collect(Collectors.joining());
        copies.copyIn("COPY " + table + " FROM STDIN", new StringReader(lines));
        StringWriter output = new StringWriter();
        String query = "SELECT number FROM " + table + " WHERE number >= " + COPIED[0] + " AND client = " + client;
        copies.copyOut("COPY (" + query + ") TO STDOUT", output);
        int[] numbers = output.toString().lines().mapToInt(Integer::parseInt).toArray();
        return "[" + numbers.length + "," + Arrays.stream(numbers).sum() + "]";
    }

    /** With a fetch size in a transaction, the driver reads a portal in pieces. */
    static String large(Connection connection, int fetchSize) throws SQLException {
        connection.setAutoCommit(fetchSize == 0);
        int count = 0;
        int characters = 0;
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(fetchSize);
            try (ResultSet rows = statement.executeQuery(LARGE)) {
                while (rows.next()) {
                    count += 1;
                    characters += rows.getString(2).length();
                }
            }
        }
        connection.setAutoCommit(true);
        return "[" + count + "," + characters + "]";
    }

    /** Cancels until the query ends: a request that arrives before the query does nothing. */
    static boolean cancelled(Connection connection) throws Exception {
        ExecutorService other = Executors.newSingleThreadExecutor();
        try (Statement statement = connection.createStatement()) {
            Future<String> state = other.submit(() -> {
                try {
                    statement.executeQuery("SELECT pg_sleep(60)");
                    return null;
                } catch (SQLException error) {
                    return error.getSQLState();
                }
            });
            other.shutdown();
            while (!other.awaitTermination(CANCEL_INTERVAL_MS, TimeUnit.MILLISECONDS)) {
                statement.cancel();
            }
            return "57014".equals(state.get());
        }
    }

    static String results(int client) throws Exception {
        Set<Integer> servers = new TreeSet<>();
        List<String> steps = new ArrayList<>();
        try (Connection connection = connect()) {
            meeting.await();
            steps.add("\"simple\":" + simple(connection));
            steps.add("\"prepared\":" + prepared(connection, client, servers));
            steps.add("\"types\":" + types(connection));
            steps.add("\"batch\":" + batch(connection, client));
            steps.add("\"transactions\":" + transactions(connection, client));
            steps.add("\"errors\":" + failures(connection));
            steps.add("\"copied\":" + copies(connection, client));
            steps.add("\"large\":" + large(connection, 0));
            String inPieces = large(connection, LARGE_PIECE);
            if (!steps.get(steps.size() - 1).endsWith(inPieces)) {
                throw new IllegalStateException(inPieces);
            }
            steps.add("\"cancelled\":" + cancelled(connection));
            steps.add("\"after cancel\":" + one(connection, "SELECT 4"));
        }
        try (Connection connection = connect()) {
            steps.add("\"reconnected\":" + prepared(connection, client, servers));
        }
        steps.add("\"servers\":" + servers);
        return "{" + String.join(",", steps) + "}";
    }
}
