//! IronRDP's own client without a window: comes in, presses Return (or touches the middle) and looks until the whole desktop has a colour.
//!
//! Prints how far the farthest pixel is off; ends with 1 and the reason when the colour does not come. It is the stack
//! of IronRDP's client program (connector, session, graphics pipeline) without that program's window and sound.

mod certificate;
mod touch;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use ironrdp_connector::{BitmapConfig, ClientConnector, Config, Credentials, DesktopSize, ServerName};
use ironrdp_connector::{ConnectionOutcome, ConnectionResult, ConnectorResult, general_err};
use ironrdp_dvc::DrdynvcClient;
use ironrdp_egfx::client::{GraphicsPipelineClient, GraphicsPipelineHandler};
use ironrdp_pdu::gcc::{ConnectionType, KeyboardType};
use ironrdp_pdu::rdp::capability_sets::{BitmapCodecs, MajorPlatformType, RailSupportLevel};
use ironrdp_pdu::rdp::client_info::{PerformanceFlags, TimezoneInfo};
use ironrdp_tokio::{Framed, NetworkClient, TokioFramed, TokioStream};
use rustls_pki_types::ServerName as TlsName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What goes wrong, as it is told to whoever runs this.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// A client that is let in.
pub(crate) type Connected = TokioFramed<TlsStream<TcpStream>>;

/// How the client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Security {
    Tls,
    Nla,
}

/// What the client takes pictures by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pictures {
    /// Bitmap updates alone (MS-RDPBCGR 2.2.9.1.1.3.1.2).
    Bitmaps,
    /// The graphics pipeline, without H.264 (MS-RDPEGFX).
    Pipeline,
}

/// IronRDP's own client without a window.
#[derive(Parser)]
struct Options {
    /// The host's port on this machine.
    #[arg(long)]
    port: u16,
    #[arg(long)]
    user: String,
    #[arg(long)]
    password: String,
    #[arg(long)]
    security: Security,
    #[arg(long)]
    pictures: Pictures,
    /// In pixels.
    #[arg(long)]
    width: u16,
    /// In pixels.
    #[arg(long)]
    height: u16,
    /// What is touched in the middle of the picture, instead of pressing Return; needs the pipeline's channel.
    #[arg(long)]
    touch: Option<touch::Touch>,
    /// Six hexadecimal digits: red, green, blue.
    #[arg(long, value_parser = colour)]
    colour: [u8; 3],
    /// The longest that all of this may take, in seconds.
    #[arg(long)]
    bound: u64,
}

fn colour(text: &str) -> Result<[u8; 3], String> {
    let number = u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 6);
    let [_, red, green, blue] = number.ok_or("a colour has six hexadecimal digits")?.to_be_bytes();
    Ok([red, green, blue])
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut text = failure.to_string();
            let mut cause = failure.source();
            while let Some(inner) = cause {
                text.push_str(&format!(": {inner}"));
                cause = inner.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let bound = tokio::time::Instant::now() + Duration::from_secs(options.bound);
        let late = |_| format!("not connected after {} s", options.bound);
        let (framed, connection) = tokio::time::timeout_at(bound, connect(options)).await.map_err(late)??;
        watch::until_all_has_a_colour(framed, connection, options.touch, options.colour, bound).await
    })
}

/// From a TCP connection to one that shows pictures.
async fn connect(options: &Options) -> Result<(Connected, ConnectionResult), Failure> {
    let stream = TcpStream::connect(("127.0.0.1", options.port)).await?;
    let mut connector = ClientConnector::new(config(options), stream.local_addr()?);
    if options.pictures == Pictures::Pipeline {
        let pipeline = GraphicsPipelineClient::new(Box::new(Pipeline), None);
        connector.attach_static_channel(
            DrdynvcClient::new().with_dynamic_channel(pipeline).with_dynamic_channel(touch::client()),
        );
    }
    let mut framed: Framed<TokioStream<TcpStream>> = Framed::new(stream);
    let upgrade = ironrdp_tokio::connect_begin(&mut framed, &mut connector).await?;
    let name = TlsName::try_from("localhost")?;
    let stream = certificate::unpinned()?.connect(name, framed.into_inner_no_leftover()).await?;
    let public_key = certificate::public_key(&stream)?;
    let mut framed: Connected = Framed::new(stream);
    let upgraded = ironrdp_tokio::mark_as_upgraded(upgrade, &mut connector);
    let name = ServerName::new("localhost");
    let network = &mut NoNetwork;
    let outcome =
        ironrdp_tokio::connect_finalize(upgraded, connector, &mut framed, network, name, public_key, None);
    match outcome.await? {
        ConnectionOutcome::Connected(connection) => Ok((framed, connection)),
        _ => Err("the host sends its client elsewhere".into()),
    }
}

fn config(options: &Options) -> Config {
    Config {
        desktop_size: DesktopSize { width: options.width, height: options.height },
        monitor_layout: None,
        desktop_scale_factor: 0,
        desktop_physical_size: None,
        desktop_orientation: None,
        device_scale_factor: None,
        monitor_extended_layout: None,
        relative_mouse_input: false,
        enable_tls: options.security == Security::Tls,
        enable_credssp: options.security == Security::Nla,
        enable_standard_rdp_security: false,
        credentials: Credentials::UsernamePassword {
            username: options.user.clone(),
            password: options.password.as_str().into(),
        },
        domain: None,
        client_build: 0,
        client_name: "ironrdp".to_owned(),
        keyboard_type: KeyboardType::IBM_ENHANCED,
        keyboard_subtype: 0,
        keyboard_functional_keys_count: 12,
        // American.
        keyboard_layout: 0x409,
        connection_type: ConnectionType::Lan,
        ime_file_name: String::new(),
        bitmap: Some(BitmapConfig {
            lossy_compression: false,
            color_depth: 32,
            codecs: BitmapCodecs(Vec::new()),
        }),
        dig_product_id: String::new(),
        client_dir: String::new(),
        alternate_shell: String::new(),
        work_dir: String::new(),
        remote_application_mode: false,
        rail_support_level: RailSupportLevel::empty(),
        platform: MajorPlatformType::UNIX,
        hardware_id: None,
        request_data: None,
        autologon: true,
        enable_audio_playback: false,
        enable_audio_capture: false,
        performance_flags: PerformanceFlags::empty(),
        license_cache: None,
        timezone_info: TimezoneInfo::default(),
        compression_type: None,
        // The pointer comes by itself and is not drawn into the picture, so that every pixel can be compared.
        enable_server_pointer: true,
        pointer_software_rendering: false,
        multitransport_flags: None,
        support_dyn_vc_gfx_protocol: options.pictures == Pictures::Pipeline,
    }
}

/// The pipeline as IronRDP has it: what it can do without a decoder for H.264.
struct Pipeline;

impl GraphicsPipelineHandler for Pipeline {}

/// Only Kerberos asks the network.
struct NoNetwork;

impl NetworkClient for NoNetwork {
    async fn send(&mut self, _: &ironrdp_connector::sspi::NetworkRequest) -> ConnectorResult<Vec<u8>> {
        Err(general_err!("NTLM was to be used, and that asks nobody"))
    }
}
