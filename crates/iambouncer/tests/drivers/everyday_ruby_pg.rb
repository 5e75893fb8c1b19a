# Everyday use of Ruby's pg, with its defaults; the PG* variables give the server. Prints the results as one line.
# tests/it/everyday describes the steps, the arguments and the results.

require "json"
require "pg"

CLIENTS = 4
EXECUTIONS = 20
BATCH = 100...200
COPIED = 1000...11_000
LARGE = "SELECT n, repeat('x', 1000) FROM generate_series(1, 10000) AS n"
CANCEL_INTERVAL_SECONDS = 0.05
TABLE, MEETING = ARGV

class Rollback < StandardError; end

# Returns when all clients have called it.
class Meeting
  def initialize
    @arrived = 0
    @lock = Mutex.new
    @all = ConditionVariable.new
  end

  def wait
    return unless MEETING == "together"

    @lock.synchronize do
      @arrived += 1
      @all.broadcast if @arrived == CLIENTS
      @all.wait(@lock) until @arrived == CLIENTS
    end
  end
end

def prepared(connection, client, servers)
  connection.prepare("sum", "SELECT pg_backend_pid(), $1::int + #{client}")
  (0...EXECUTIONS).sum do |number|
    server, value = connection.exec_prepared("sum", [number]).values[0]
    servers << server.to_i
    value.to_i
  end
end

def types(connection)
  query = "SELECT $1::int, $2::bool, $3::bigint, $4::text, $5::bytea, $6::int[], 1.50::numeric, " \
          "'2024-02-29 12:34:56+00'::timestamptz, 2.5::float8, '{\"a\": [1, null]}'::jsonb"
  bytes = { value: "\x00\xff".b, format: 1 }
  result = connection.exec_params(query, [nil, true, 9_007_199_254_740_993, "Grüße €", bytes, "{1,NULL,3}"])
  row = result.map_types!(PG::BasicTypeMapForResults.new(connection)).values[0]
  row[2] = row[2].to_s
  row[4] = row[4].unpack1("H*")
  row[6] = format("%.2f", row[6])
  row[7] = row[7].to_i
  row
end

def batch(connection, client)
  connection.enter_pipeline_mode
  BATCH.each { |number| connection.send_query_params("INSERT INTO #{TABLE} VALUES ($1, $2)", [client, number]) }
  connection.pipeline_sync
  inserted = 0
  BATCH.each do
    inserted += connection.get_result.check.cmd_tuples
    connection.get_result
  end
  raise "no end of the pipeline" unless connection.get_result.result_status == PG::PGRES_PIPELINE_SYNC

  connection.exit_pipeline_mode
  inserted
end

def transactions(connection, client)
  insert = "INSERT INTO #{TABLE} VALUES ($1, $2)"
  connection.transaction { connection.exec_params(insert, [client, 1]) }
  begin
    connection.transaction do
      connection.exec_params(insert, [client, 2])
      raise Rollback
    end
  rescue Rollback
    # The driver has rolled back.
  end
  rows = connection.exec_params("SELECT number FROM #{TABLE} WHERE client = $1 AND number < 10", [client])
  rows.column_values(0).map(&:to_i)
end

def failing
  yield
  nil
rescue PG::Error => e
  e.result.error_field(PG::PG_DIAG_SQLSTATE)
end

def failures(connection)
  connection.exec("BEGIN")
  states = [failing { connection.exec("SELECT 1 / 0") }, failing { connection.exec("SELECT 1") }]
  connection.exec("ROLLBACK")
  connection.prepare("quotient", "SELECT 1 / $1::int")
  raise "no quotient" unless connection.exec_prepared("quotient", [1]).getvalue(0, 0) == "1"

  states + [failing { connection.exec_prepared("quotient", [0]) }]
end

def copies(connection, client)
  connection.copy_data("COPY #{TABLE} FROM STDIN") do
    COPIED.each { |number| connection.put_copy_data("#{client}\t#{number}\n") }
  end
  numbers = []
  query = "SELECT number FROM #{TABLE} WHERE client = #{client} AND number >= #{COPIED.begin}"
  connection.copy_data("COPY (#{query}) TO STDOUT") do
    while (line = connection.get_copy_data)
      numbers << line.to_i
    end
  end
  [numbers.size, numbers.sum]
end

def large(connection)
  whole = connection.exec(LARGE).values
  in_pieces = []
  connection.send_query(LARGE)
  connection.set_single_row_mode
  connection.get_result.stream_each_row { |row| in_pieces << row }
  connection.get_result
  raise "different rows" unless in_pieces == whole

  [whole.size, whole.sum { |_, filling| filling.size }]
end

# Cancels until the query ends: a request that arrives before the query does nothing.
def cancelled(connection)
  ended = Queue.new
  other = Thread.new do
    loop do
      sleep CANCEL_INTERVAL_SECONDS
      break unless ended.empty?

      connection.cancel
    end
  end
  state = failing { connection.exec("SELECT pg_sleep(60)") }
  ended << true
  other.join
  state == "57014"
end

def results(client, meeting)
  servers = []
  connection = PG.connect
  meeting.wait
  simple = connection.exec("SELECT 1, 'one'").values[0]
  steps = {
    "simple" => [simple[0].to_i, simple[1]],
    "prepared" => prepared(connection, client, servers),
    "types" => types(connection),
    "batch" => batch(connection, client),
    "transactions" => transactions(connection, client),
    "errors" => failures(connection),
    "copied" => copies(connection, client),
    "large" => large(connection),
    "cancelled" => cancelled(connection),
    "after cancel" => connection.exec("SELECT 4").getvalue(0, 0).to_i
  }
  connection.close
  connection = PG.connect
  steps["reconnected"] = prepared(connection, client, servers)
  connection.close
  steps.merge("servers" => servers.uniq)
end

meeting = Meeting.new
clients = (0...CLIENTS).map { |client| Thread.new { results(client, meeting) } }
puts JSON.generate("clients" => clients.map(&:value))
