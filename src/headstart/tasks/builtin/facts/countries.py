"""Countries with capital, continent, adjective and currency, and large cities that are no capitals.

A dash in the rows stands where there is no single plain answer; countries without one undisputed capital are left out.
"""

from typing import NamedTuple


class Country(NamedTuple):
    """One country; an empty field has no single plain answer."""

    name: str
    capital: str
    continent: str
    adjective: str
    currency: str

    @property
    def in_text(self) -> str:
        """The name as it stands inside a sentence."""
        return f"the {self.name}" if self.name in _WITH_ARTICLE else self.name


_WITH_ARTICLE = frozenset(
    ("Netherlands", "United Kingdom", "Philippines", "United Arab Emirates", "Dominican Republic", "Bahamas", "Solomon Islands",
     "Marshall Islands")
)  # fmt: skip
CONTINENTS = ("Africa", "Asia", "Europe", "North America", "South America", "Oceania")

_ROWS = {
    "Europe": """Albania,Tirana,Albanian,lek; Austria,Vienna,Austrian,euro; Belgium,Brussels,Belgian,euro; Bulgaria,Sofia,Bulgarian,-;
        Croatia,Zagreb,Croatian,euro; Czechia,Prague,Czech,koruna; Denmark,Copenhagen,Danish,krone; Estonia,Tallinn,Estonian,euro;
        Finland,Helsinki,Finnish,euro; France,Paris,French,euro; Germany,Berlin,German,euro; Greece,Athens,Greek,euro;
        Hungary,Budapest,Hungarian,forint; Iceland,Reykjavik,Icelandic,krona; Ireland,Dublin,Irish,euro; Italy,Rome,Italian,euro;
        Latvia,Riga,Latvian,euro; Lithuania,Vilnius,Lithuanian,euro; Malta,Valletta,Maltese,euro; Moldova,Chisinau,Moldovan,leu;
        Netherlands,Amsterdam,Dutch,euro; Norway,Oslo,Norwegian,krone; Poland,Warsaw,Polish,zloty; Portugal,Lisbon,Portuguese,euro;
        Romania,Bucharest,Romanian,leu; Serbia,Belgrade,Serbian,dinar; Slovakia,Bratislava,Slovak,euro;
        Slovenia,Ljubljana,-,euro; Spain,Madrid,Spanish,euro; Sweden,Stockholm,Swedish,krona; Switzerland,Bern,Swiss,franc;
        Ukraine,Kyiv,Ukrainian,hryvnia; Belarus,Minsk,Belarusian,ruble; North Macedonia,Skopje,Macedonian,denar;
        Montenegro,Podgorica,Montenegrin,euro; United Kingdom,London,British,pound""",
    "Asia": """Afghanistan,Kabul,Afghan,afghani; Bangladesh,Dhaka,Bangladeshi,taka; Bhutan,Thimphu,Bhutanese,ngultrum;
        Cambodia,Phnom Penh,Cambodian,riel; China,Beijing,Chinese,yuan; India,New Delhi,Indian,rupee; Iran,Tehran,Iranian,rial;
        Iraq,Baghdad,Iraqi,dinar; Japan,Tokyo,Japanese,yen; Jordan,Amman,Jordanian,dinar; Kuwait,Kuwait City,Kuwaiti,dinar;
        Kyrgyzstan,Bishkek,Kyrgyz,som; Laos,Vientiane,-,kip; Lebanon,Beirut,Lebanese,pound; Malaysia,Kuala Lumpur,Malaysian,ringgit;
        Mongolia,Ulaanbaatar,Mongolian,tugrik; Myanmar,Naypyidaw,-,kyat; Nepal,Kathmandu,-,rupee; Oman,Muscat,Omani,rial;
        Pakistan,Islamabad,Pakistani,rupee; Philippines,Manila,-,peso; Qatar,Doha,Qatari,riyal; Saudi Arabia,Riyadh,Saudi,riyal;
        South Korea,Seoul,South Korean,won; Syria,Damascus,Syrian,pound; Tajikistan,Dushanbe,Tajik,somoni;
        Thailand,Bangkok,Thai,baht; Turkmenistan,Ashgabat,Turkmen,manat; United Arab Emirates,Abu Dhabi,Emirati,dirham;
        Uzbekistan,Tashkent,Uzbek,-; Vietnam,Hanoi,Vietnamese,dong; Bahrain,Manama,Bahraini,dinar""",
    "Africa": """Algeria,Algiers,Algerian,dinar; Angola,Luanda,Angolan,kwanza; Benin,Porto-Novo,Beninese,franc;
        Botswana,Gaborone,-,pula; Burkina Faso,Ouagadougou,-,franc; Cape Verde,Praia,-,escudo; Chad,N'Djamena,Chadian,franc;
        Egypt,Cairo,Egyptian,pound; Eritrea,Asmara,Eritrean,nakfa; Ethiopia,Addis Ababa,Ethiopian,birr; Gabon,Libreville,Gabonese,franc;
        Ghana,Accra,Ghanaian,cedi; Guinea,Conakry,Guinean,franc; Kenya,Nairobi,Kenyan,shilling; Liberia,Monrovia,Liberian,dollar;
        Libya,Tripoli,Libyan,dinar; Madagascar,Antananarivo,-,ariary; Malawi,Lilongwe,Malawian,kwacha; Mali,Bamako,Malian,franc;
        Mauritania,Nouakchott,Mauritanian,ouguiya; Mauritius,Port Louis,Mauritian,rupee; Morocco,Rabat,Moroccan,dirham;
        Mozambique,Maputo,Mozambican,metical; Namibia,Windhoek,Namibian,dollar; Niger,Niamey,-,franc; Nigeria,Abuja,Nigerian,naira;
        Rwanda,Kigali,Rwandan,franc; Senegal,Dakar,Senegalese,franc; Somalia,Mogadishu,Somali,shilling;
        South Sudan,Juba,South Sudanese,pound; Sudan,Khartoum,Sudanese,pound; Tunisia,Tunis,Tunisian,dinar;
        Uganda,Kampala,Ugandan,shilling; Zambia,Lusaka,Zambian,kwacha; Zimbabwe,Harare,Zimbabwean,-""",
    "North America": """Canada,Ottawa,Canadian,dollar; Mexico,Mexico City,Mexican,peso; Cuba,Havana,Cuban,peso;
        Jamaica,Kingston,Jamaican,dollar; Haiti,Port-au-Prince,Haitian,gourde; Dominican Republic,Santo Domingo,Dominican,peso;
        Guatemala,Guatemala City,Guatemalan,quetzal; Honduras,Tegucigalpa,Honduran,lempira; El Salvador,San Salvador,Salvadoran,-;
        Nicaragua,Managua,Nicaraguan,cordoba; Costa Rica,San Jose,Costa Rican,colon; Panama,Panama City,Panamanian,-;
        Belize,Belmopan,Belizean,dollar; Bahamas,Nassau,Bahamian,dollar; Barbados,Bridgetown,Barbadian,dollar;
        Trinidad and Tobago,Port of Spain,-,dollar; Saint Lucia,Castries,Saint Lucian,dollar; Dominica,Roseau,-,dollar""",
    "South America": """Argentina,Buenos Aires,-,peso; Brazil,Brasilia,Brazilian,real; Chile,Santiago,Chilean,peso;
        Colombia,Bogota,Colombian,peso; Ecuador,Quito,Ecuadorian,dollar; Guyana,Georgetown,Guyanese,dollar;
        Paraguay,Asuncion,Paraguayan,guarani; Peru,Lima,Peruvian,sol; Suriname,Paramaribo,Surinamese,dollar;
        Uruguay,Montevideo,Uruguayan,peso; Venezuela,Caracas,Venezuelan,bolivar""",
    "Oceania": """Australia,Canberra,Australian,dollar; New Zealand,Wellington,-,dollar; Fiji,Suva,Fijian,dollar;
        Papua New Guinea,Port Moresby,-,kina; Samoa,Apia,Samoan,tala; Tonga,Nuku'alofa,Tongan,-; Vanuatu,Port Vila,-,vatu;
        Solomon Islands,Honiara,-,dollar; Marshall Islands,Majuro,Marshallese,dollar; Palau,Ngerulmud,Palauan,dollar""",
    "-": """Russia,Moscow,Russian,ruble; Turkey,Ankara,Turkish,lira; Kazakhstan,Astana,Kazakh,tenge; Georgia,Tbilisi,Georgian,lari;
        Armenia,Yerevan,Armenian,dram; Azerbaijan,Baku,Azerbaijani,manat; Cyprus,Nicosia,Cypriot,euro""",
}


def _country(row: str, continent: str) -> Country:
    name, capital, adjective, currency = ("" if field == "-" else field for field in row.strip().split(","))
    return Country(name, capital, "" if continent == "-" else continent, adjective, currency)


COUNTRIES: list[Country] = [_country(row, continent) for continent, rows in _ROWS.items() for row in rows.split(";")]

_CITIES = """Germany: Munich, Hamburg, Cologne, Frankfurt, Leipzig, Dresden, Stuttgart, Bremen, Hanover, Nuremberg
France: Lyon, Marseille, Nice, Toulouse, Bordeaux, Lille, Nantes, Strasbourg, Montpellier, Grenoble
Italy: Milan, Naples, Turin, Florence, Venice, Bologna, Palermo, Genoa, Verona, Pisa
Spain: Barcelona, Seville, Bilbao, Malaga, Zaragoza, Salamanca
United Kingdom: Manchester, Liverpool, Glasgow, Leeds, Edinburgh, Bristol, Cardiff, Belfast, Sheffield, Nottingham
United States: Chicago, Boston, Houston, Dallas, Seattle, Denver, Miami, Detroit, Atlanta, Las Vegas
Canada: Toronto, Montreal, Vancouver, Calgary, Edmonton, Winnipeg
Brazil: Sao Paulo, Rio de Janeiro, Recife, Fortaleza, Manaus
Argentina: Rosario, Mendoza
Mexico: Guadalajara, Monterrey, Tijuana, Cancun, Acapulco
Japan: Osaka, Kyoto, Nagoya, Sapporo, Yokohama, Hiroshima, Fukuoka, Kobe
China: Shanghai, Shenzhen, Guangzhou, Wuhan, Chengdu, Nanjing, Tianjin
India: Mumbai, Kolkata, Chennai, Bangalore, Jaipur, Pune
Australia: Sydney, Melbourne, Brisbane, Perth, Adelaide, Darwin
Turkey: Istanbul, Izmir, Antalya, Bursa
Poland: Krakow, Gdansk, Wroclaw, Poznan
Russia: Saint Petersburg, Novosibirsk, Vladivostok, Kazan
Netherlands: Rotterdam, Utrecht, Eindhoven
Belgium: Antwerp, Ghent, Bruges
Switzerland: Zurich, Geneva, Basel
Austria: Salzburg, Innsbruck, Graz
Portugal: Porto, Coimbra
Sweden: Gothenburg, Malmo, Uppsala
Norway: Bergen, Trondheim, Stavanger
Denmark: Aarhus, Odense
Morocco: Casablanca, Marrakesh, Fez
Egypt: Alexandria, Luxor, Giza
South Africa: Johannesburg, Durban, Polokwane
Nigeria: Lagos, Kano, Ibadan
Kenya: Mombasa, Kisumu
Pakistan: Karachi, Lahore
Vietnam: Ho Chi Minh City, Da Nang, Hue
Saudi Arabia: Jeddah, Mecca, Medina
Israel: Tel Aviv, Haifa
Ukraine: Odesa, Kharkiv, Lviv
Greece: Thessaloniki, Patras
South Korea: Busan, Incheon, Daegu
New Zealand: Auckland, Christchurch, Dunedin
Colombia: Medellin, Cali
Peru: Cusco, Arequipa"""

CITIES: list[tuple[str, str]] = [
    (city.strip(), country) for country, cities in (line.split(": ") for line in _CITIES.splitlines()) for city in cities.split(",")
]
